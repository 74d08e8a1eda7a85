//! Products of up to 64 rows with 4-bit levels by rings, what is behind them included: `cuda/int4_stream.cu`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaWeight, Element,
        few::Kind,
        int4::{FEW_ROWS, Int4Matrix, Part},
        int4_plan::Plan,
        launch::Launch,
        linear::Product,
        weight::Matrix,
    },
};

/// How the product with a weight is added to the residual.
pub(super) struct Int4Adder<'a> {
    part: &'a Part,
    plan: &'a Plan,
}

impl Int4Adder<'_> {
    /// Parts of a row of which a sum of squares is left.
    pub(super) fn parts(&self) -> usize {
        self.plan.clusters
    }
}

impl CudaBackend {
    /// The only part of a matrix with which products of `rows` rows are made here, without batch invariance.
    fn streamed<'a>(&self, weight: &'a CudaWeight, rows: usize) -> Option<&'a Part> {
        let Matrix::Int4(matrix) = &weight.matrix else {
            return None;
        };
        let [part] = &matrix.parts[..] else {
            return None;
        };
        let streams = !self.batch_invariant && part.order.is_none();
        (streams && part.plans.of(Kind::Linear, rows).is_some()).then_some(part)
    }

    /// Whether products with `weight` multiply their results by what their rows are owed.
    pub(super) fn int4_pays(&self, weight: &CudaWeight, rows: usize) -> bool {
        self.streamed(weight, rows).is_some()
    }

    /// How the product with `weight` is added to the residual, if there is a kernel for that.
    pub(super) fn int4_adder<'a>(&self, weight: &'a CudaWeight, rows: usize) -> Option<Int4Adder<'a>> {
        let part = self.streamed(weight, rows)?;
        let plan = part.plans.of(Kind::Added, rows)?;
        (weight.element == Element::Bf16).then_some(Int4Adder { part, plan })
    }

    /// As [`Self::int4_adder`] says; `sums` gives the kernel's last arguments.
    pub(super) fn add_int4(
        &self,
        product: &Product<'_>,
        rows: usize,
        adder: &Int4Adder<'_>,
        sums: impl FnOnce(Launch<'_>) -> Launch<'_>,
    ) -> Result<(), BackendError> {
        let bias = product.bias.map_or(0, CudaBuffer::address);
        let to = (bias, product.out.address());
        let x = (product.x, rows);
        let launch = self.stream_launch_int4((product, Kind::Added), adder.part, x, adder.plan, to)?;
        sums(launch).run()
    }

    /// Silu of the first half of the product times the second, if there is a kernel for that weight and as many rows.
    pub(super) fn gated_int4(
        &self,
        product: &Product<'_>,
        matrix: &Int4Matrix,
        rows: usize,
    ) -> Option<Result<(), BackendError>> {
        let [part] = &matrix.parts[..] else {
            return None;
        };
        let plan = part.plans.of(Kind::Gated, rows)?;
        let x = match part.order {
            None => Ok(product.x),
            Some(_) => self.in_order(product, part, product.x, rows),
        };
        Some(x.and_then(|x| {
            let bias = product.bias.map_or(0, CudaBuffer::address);
            let to = (bias, product.out.address());
            let stride = part.shape.rows / 2;
            self.run_stream((product, Kind::Gated), part, (x, rows), plan, (to, stride))
        }))
    }

    /// The product with one part for up to 64 rows, if it is the faster way; `to` is the bias, the columns of a row of results
    /// and where the first is.
    pub(super) fn stream_int4(
        &self,
        product: &Product<'_>,
        part: &Part,
        x: (u64, usize),
        (bias, stride, out): (u64, usize, u64),
    ) -> Option<Result<(), BackendError>> {
        // With batch invariance one plan for all that are given at once.
        let planned = if self.batch_invariant { FEW_ROWS } else { x.1 };
        let plan = part.plans.of(Kind::Linear, planned)?;
        Some(self.run_stream((product, Kind::Linear), part, x, plan, ((bias, out), stride)))
    }

    fn run_stream(
        &self,
        (product, kind): (&Product<'_>, Kind),
        part: &Part,
        x: (u64, usize),
        plan: &Plan,
        (to, stride): ((u64, u64), usize),
    ) -> Result<(), BackendError> {
        self.stream_launch_int4((product, kind), part, x, plan, to)?
            .int(stride)
            .int(usize::from(product.out.element() == Element::F32))
            .owed(product.owed)
            .run()
    }

    /// With all arguments but those of the kind's own; `to` is the bias and where the first result is.
    fn stream_launch_int4(
        &self,
        (product, kind): (&Product<'_>, Kind),
        part: &Part,
        (x, rows): (u64, usize),
        plan: &Plan,
        (bias, out): (u64, u64),
    ) -> Result<Launch<'_>, BackendError> {
        let shape = &part.shape;
        let kernel = format!(
            "int4_{}_{}_g{}_{}",
            kind.name(),
            rows.next_power_of_two().max(8) / 8,
            shape.group,
            product.weight.element.name()
        );
        let launch = self.device.kernel(&kernel)?;
        Ok(launch
            .grid(plan.clusters * plan.slices, 1, 1)
            .threads(32 * plan.across * plan.along)
            .shared(plan.block_bytes(shape, rows, kind))
            .cluster(plan.slices)
            .wide(x)
            .wide(part.levels.address())
            .wide(part.scales.address())
            .wide(part.zeros())
            .wide(bias)
            .int(rows)
            .int(kind.width(shape.rows))
            .int(shape.cols)
            .wide(out)
            .int(plan.slices)
            .int(plan.across)
            .int(plan.along)
            .int(plan.rounds)
            .int(usize::from(plan.often))
            .int(usize::from(plan.over)))
    }
}
