//! RMS norms between two products that have no kernel of their own: `cuda/deferred_norm.cuh`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaWeight, Element,
        collective::{MOST_BLOCKS, MOST_RESULTS},
        few::{FEW_ROWS, Kind, Plan},
        int4_stream::Int4Adder,
        launch::Launch,
        linear::{Product, STREAM_ROWS},
        norm::row_threads,
        weight::Matrix,
    },
    ops::{LinearArguments, Normed, OwedScale, RmsNormWeight},
};

/// Most sums of squares of a row.
const MOST_PARTS: usize = 160;
/// Elements of [`Normed`]'s squares.
pub(super) const SQUARES: usize = FEW_ROWS * MOST_PARTS;

/// What each row of a product's x is still to be multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Owed {
    /// Where the sums of squares are; 0: nothing is owed.
    pub(super) squares: u64,
    pub(super) parts: usize,
    pub(super) eps: f32,
}

impl Owed {
    pub(super) const NOTHING: Self = Self {
        squares: 0,
        parts: 0,
        eps: 0.0,
    };
}

impl Launch<'_> {
    /// The members of `struct Owed`.
    pub(super) fn owed(self, owed: Owed) -> Self {
        self.wide(owed.squares).int(owed.parts).float(owed.eps)
    }

    /// The members of `struct Sums`: addresses of the residual, the norm's weight and squares.
    fn sums(self, members: [u64; 3]) -> Self {
        members.into_iter().fold(self, Self::wide)
    }
}

/// What adds a product to the residual.
enum Adder<'a> {
    /// linear_few.cu.
    Few(Plan),
    /// linear_stream.cu.
    Stream,
    /// int4_stream.cu.
    Int4(Int4Adder<'a>),
}

impl CudaBackend {
    /// What the product of `x` with `weight` has to pay; paid here and now if it has no kernel for that.
    pub(super) fn owed_to(
        &self,
        x: &mut Normed<Self>,
        weight: &CudaWeight,
        rows: usize,
    ) -> Result<Owed, BackendError> {
        let Some(OwedScale { parts, eps }) = x.owed else {
            return Ok(Owed::NOTHING);
        };
        x.squares.check("what a norm has left: squares", rows * parts)?;
        x.rows.check("what a norm has left: rows", rows * weight.cols)?;
        let owed = Owed {
            squares: x.squares.address(),
            parts,
            eps,
        };
        if self.pays(weight, rows) {
            return Ok(owed);
        }
        self.device
            .kernel(&format!("pay_owed_{}", x.rows.element().name()))?
            .grid(rows, 1, 1)
            .threads(row_threads(weight.cols))
            .wide(x.rows.address())
            .owed(owed)
            .int(weight.cols)
            .run()?;
        x.owed = None;
        Ok(Owed::NOTHING)
    }

    /// Whether products with `weight` pay, and may leave a norm unpaid: without it the elements of x have the residual's
    /// size, for which half precision has no room.
    fn pays(&self, weight: &CudaWeight, rows: usize) -> bool {
        let has_kernel = || match weight.matrix {
            Matrix::Dense(_) => rows <= STREAM_ROWS || self.few_plan(weight, rows, Kind::Linear).is_some(),
            Matrix::Int4(_) => self.int4_pays(weight, rows),
            Matrix::Q8(_) => false,
        };
        let suits = weight.element == Element::Bf16 && weight.cols.is_multiple_of(8);
        suits && !self.batch_invariant && has_kernel()
    }

    /// Whether a product of up to [`STREAM_ROWS`] rows adds up over ranks, if there are several, by itself.
    fn sums_in_products(&self, weight: &CudaWeight, rows: usize) -> bool {
        let fits = rows * weight.rows <= MOST_RESULTS && self.device.facts.num_sms <= MOST_BLOCKS;
        self.member.is_none() || (self.peers().is_some() && fits)
    }

    /// The kernel that adds a product with `weight` to the residual and leaves the norm to the next, if there is one.
    fn adder<'a>(&self, weight: &'a CudaWeight, rows: usize) -> Option<Adder<'a>> {
        if !self.pays(weight, rows) {
            return None;
        }
        if let Matrix::Int4(_) = weight.matrix {
            let alone = self.member.is_none();
            return alone.then(|| self.int4_adder(weight, rows).map(Adder::Int4))?;
        }
        let few = self.few_plan(weight, rows, Kind::Added).map(Adder::Few);
        let alone = few.filter(|_| self.member.is_none());
        let streams = rows <= STREAM_ROWS && self.sums_in_products(weight, rows);
        alone.or_else(|| streams.then_some(Adder::Stream))
    }

    /// The product added to the residual and its norm up to the scale of each row, if there is a kernel for that: `None` if not.
    pub(super) fn add_norm(
        &self,
        product: &LinearArguments<'_, Self>,
        norm: &RmsNormWeight<'_, Self>,
        (rows, width): (usize, usize),
        residual: &mut CudaBuffer,
        out: &mut Normed<Self>,
    ) -> Option<Result<(), BackendError>> {
        let LinearArguments { x, weight, bias } = *product;
        let elements = [x.element(), out.rows.element()] == [Element::Bf16; 2]
            && [residual.element(), norm.weight.element()] == [Element::F32; 2];
        if !elements || weight.rows != width {
            return None;
        }
        let adder = self.adder(weight, rows)?;
        let parts = match &adder {
            Adder::Few(plan) => plan.tiles,
            Adder::Stream => self.device.facts.num_sms,
            Adder::Int4(adder) => adder.parts(),
        };
        if rows > out.squares.rows_of(parts) {
            return None;
        }
        let run = || {
            let what = "linear_add_norm";
            x.check(what, rows * weight.cols)?;
            residual.check(what, rows * width)?;
            norm.weight.check(what, width)?;
            out.rows.check(what, rows * width)?;
            bias.map_or(Ok(()), |bias| bias.check(what, width))?;
            let product = Product::new(product, &out.rows);
            let sums = [&*residual, norm.weight, &out.squares].map(CudaBuffer::address);
            self.run_adder(&adder, &product, rows, sums)
        };
        Some(run().map(|()| {
            out.owed = Some(OwedScale { parts, eps: norm.eps });
        }))
    }

    /// With the members of `struct Sums`.
    fn run_adder(
        &self,
        adder: &Adder<'_>,
        product: &Product<'_>,
        rows: usize,
        sums: [u64; 3],
    ) -> Result<(), BackendError> {
        match (adder, self.peers()) {
            (Adder::Few(plan), _) => {
                self.launch_few((product, Kind::Added), rows, plan, |launch| launch.sums(sums))
            }
            (Adder::Int4(adder), _) => self.add_int4(product, rows, adder, |launch| launch.sums(sums)),
            (Adder::Stream, None) => self.stream_adder("added", product, rows)?.sums(sums).run(),
            (Adder::Stream, Some((rank, peers))) => {
                let launch = self.stream_adder("exchanged", product, rows)?;
                launch.sums(sums).group(rank, peers).run()
            }
        }
    }

    fn stream_adder(
        &self,
        kind: &str,
        product: &Product<'_>,
        rows: usize,
    ) -> Result<Launch<'_>, BackendError> {
        let launch = self.stream_launch((kind, Element::Bf16.name()), product.weight, rows)?;
        Ok(launch.product(product, rows))
    }
}
