//! Products with weights, and embeddings.

use crate::{
    backend::BackendError,
    cpu::shape_error,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, CudaWeight, Element,
        deferred::Owed,
        few::{self, Kind},
        launch::Launch,
        norm::{row_threads, same_element},
        weight::Matrix,
    },
    ops::{ActivationOps, LinearArguments, LinearOps, Normed},
};

/// Most rows that linear_stream.cu makes at once; of fewer, linear_few.cu makes some, and of more it or cuBLASLt is faster.
pub(super) const STREAM_ROWS: usize = 16;
/// Of its kernel: warps, weight rows that are summed up at once, and bytes of its rings.
const STREAM_WARPS: usize = 8;
const STREAM_GROUP: usize = 24;
const RING_BYTES: usize = STREAM_WARPS * 3 * STREAM_GROUP * 128;
/// Most rows for which what a block takes of shared memory was tried kind by kind.
const FEWEST_ROWS: usize = 4;
/// Of the product of many rows in the same order of sums: rows and columns of a tile, and bytes of a block's rings.
const ORDERED_TILE: (usize, usize) = (128, 128);
const ORDERED_SHARED_BYTES: usize = 3 * (128 + 128) * 128;
/// Rows and columns of a tile of the product for any type and shape.
const TILE: usize = 64;

impl LinearOps for CudaBackend {
    fn linear(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        self.multiply(&LinearArguments { x, weight, bias }, Owed::NOTHING, rows, out)
    }

    fn linear_silu_mul(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        shape: (usize, usize),
        buffers: (&mut CudaBuffer, &mut CudaBuffer),
    ) -> Result<(), BackendError> {
        self.multiply_gated(
            &LinearArguments { x, weight, bias },
            Owed::NOTHING,
            shape,
            buffers,
        )
    }

    fn normed_linear(
        &self,
        x: &mut Normed<Self>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let owed = self.owed_to(x, weight, rows)?;
        let x = &x.rows;
        self.multiply(&LinearArguments { x, weight, bias }, owed, rows, out)
    }

    fn normed_linear_silu_mul(
        &self,
        x: &mut Normed<Self>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        shape: (usize, usize),
        buffers: (&mut CudaBuffer, &mut CudaBuffer),
    ) -> Result<(), BackendError> {
        let owed = self.owed_to(x, weight, shape.0)?;
        let x = &x.rows;
        self.multiply_gated(&LinearArguments { x, weight, bias }, owed, shape, buffers)
    }

    fn embed(
        &self,
        table: &CudaWeight,
        ids: &CudaIndices,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let width = table.cols;
        ids.check("embed: ids", rows)?;
        out.check("embed: out", rows * width)?;
        let address = match &table.matrix {
            Matrix::Dense(memory) => memory.address(),
            Matrix::Int4(matrix) => return self.embed_int4(table, matrix, ids, rows, out),
            Matrix::Q8(matrix) => return self.embed_q8(table, matrix, ids, (rows, out)),
        };
        self.device
            .kernel(&format!(
                "gather_rows_{}_{}",
                table.element.name(),
                out.element().name()
            ))?
            .grid(rows, 1, 1)
            .threads(row_threads(width))
            .wide(address)
            .wide(ids.address())
            .int(width)
            .wide(out.address())
            .run()
    }
}

/// `out (_, n) = x (_, k) . weight (n, k)^T + bias (n)`.
pub(super) struct Product<'a> {
    pub(super) x: u64,
    /// Where the matrix is, if it is dense.
    pub(super) matrix: u64,
    pub(super) weight: &'a CudaWeight,
    pub(super) bias: Option<&'a CudaBuffer>,
    /// To x.
    pub(super) owed: Owed,
    pub(super) out: &'a CudaBuffer,
}

impl<'a> Product<'a> {
    /// Nothing is owed.
    pub(super) fn new(
        &LinearArguments { x, weight, bias }: &LinearArguments<'a, CudaBackend>,
        out: &'a CudaBuffer,
    ) -> Self {
        Self {
            x: x.address(),
            matrix: match &weight.matrix {
                Matrix::Dense(memory) => memory.address(),
                Matrix::Int4(_) | Matrix::Q8(_) => 0,
            },
            weight,
            bias,
            owed: Owed::NOTHING,
            out,
        }
    }

    pub(super) fn types(&self) -> String {
        format!("{}_{}", self.weight.element.name(), self.out.element().name())
    }
}

impl Launch<'_> {
    /// The arguments of a kernel that makes `rows` rows of `product`.
    pub(super) fn product(self, product: &Product<'_>, rows: usize) -> Self {
        self.wide(product.x)
            .wide(product.matrix)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(product.weight.rows)
            .int(product.weight.cols)
            .wide(product.out.address())
    }
}

/// What a block of linear_stream.cu takes at least: two products fit on a multiprocessor, but not three. (The third would find
/// room on some multiprocessors before others, and not have one block on each.) With one row a block of attention, which lies on
/// few multiprocessors, fits beside the two, so that large weights are on their way while it goes over a long context; the
/// smaller ones of gate and up are not worth what uneven room costs.
fn least_shared_bytes(kind: &str, weight: &CudaWeight, rows: usize) -> usize {
    let small = weight.rows * weight.cols < few::LARGEST;
    let kib = match (kind, rows) {
        ("gated", 1) if small => 114,
        ("gated", 2) => 114,
        ("linear", 2..=FEWEST_ROWS) => 90,
        ("added", ..=FEWEST_ROWS) | (_, 1) => 78,
        _ => 100,
    };
    kib << 10
}

impl CudaBackend {
    /// [`LinearOps::linear`], of rows to which something may be owed.
    fn multiply(
        &self,
        product: &LinearArguments<'_, Self>,
        owed: Owed,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let &LinearArguments { x, weight, bias } = product;
        let CudaWeight {
            rows: n,
            cols: k,
            element,
            ..
        } = *weight;
        x.check("linear: x", rows * k)?;
        out.check("linear: out", rows * n)?;
        if let Some(bias) = bias {
            bias.check("linear: bias", n)?;
        }
        if x.element() != element {
            return Err(shape_error(format!(
                "linear: x is {}, the weight {}",
                x.element().name(),
                element.name()
            )));
        }
        let product = Product {
            owed,
            ..Product::new(product, out)
        };
        match &weight.matrix {
            Matrix::Dense(_) => {}
            Matrix::Int4(matrix) => return self.linear_int4(&product, matrix, rows),
            Matrix::Q8(matrix) => return self.linear_q8(&product, matrix, rows),
        }
        if element == Element::F32 || !k.is_multiple_of(8) {
            return self.tiled(&product, rows);
        }
        if self.batch_invariant && self.prefers_ordered((rows, n, k)) {
            return self.ordered(&product, rows);
        }
        if let Some(done) = self.linear_few(&product, rows, Kind::Linear) {
            return done;
        }
        let matmul = self.matmul.as_ref().filter(|_| !self.batch_invariant);
        if let Some(matmul) = matmul.filter(|_| rows > STREAM_ROWS) {
            matmul.run(&product, rows)?;
            return self.add_bias(&product, rows);
        }
        for first in (0..rows).step_by(STREAM_ROWS) {
            self.stream(&product, (first, (rows - first).min(STREAM_ROWS)), false)?;
        }
        Ok(())
    }

    /// [`LinearOps::linear_silu_mul`], of rows to which something may be owed.
    fn multiply_gated(
        &self,
        product: &LinearArguments<'_, Self>,
        owed: Owed,
        (rows, width): (usize, usize),
        (scratch, out): (&mut CudaBuffer, &mut CudaBuffer),
    ) -> Result<(), BackendError> {
        let &LinearArguments { x, weight, bias } = product;
        if weight.rows != 2 * width {
            return Err(shape_error(format!(
                "linear_silu_mul: a weight of {} rows for two times {width}",
                weight.rows
            )));
        }
        x.check("linear_silu_mul: x", rows * weight.cols)?;
        out.check("linear_silu_mul: out", rows * width)?;
        if let Some(bias) = bias {
            bias.check("linear_silu_mul: bias", 2 * width)?;
        }
        same_element("linear_silu_mul", x, out)?;
        let whole = Product {
            owed,
            ..Product::new(product, out)
        };
        if let Some(done) = self.gated(&whole, rows) {
            return done;
        }
        self.multiply(product, owed, rows, scratch)?;
        self.silu_mul(scratch, rows, width, out)
    }

    /// `silu(gate) * up` by one kernel, where there is one for this weight and as many rows.
    fn gated(&self, product: &Product<'_>, rows: usize) -> Option<Result<(), BackendError>> {
        let weight = product.weight;
        if weight.element == Element::F32 || !weight.cols.is_multiple_of(8) {
            return None;
        }
        match &weight.matrix {
            Matrix::Dense(_) if self.prefers_hopper(product, rows) => {
                Some(self.gated_hopper(product, None, rows))
            }
            Matrix::Dense(_) => self.linear_few(product, rows, Kind::Gated).or_else(|| {
                let streams = rows <= STREAM_ROWS;
                streams.then(|| self.stream(product, (0, rows), true))
            }),
            // Other sums than those of more rows.
            Matrix::Int4(_) if self.batch_invariant => None,
            Matrix::Int4(matrix) => self.gated_int4(product, matrix, rows).or_else(|| {
                self.prefers_hopper(product, rows).then(|| {
                    let dense = self.dequantize(weight, matrix)?;
                    self.gated_hopper(product, Some(dense), rows)
                })
            }),
            Matrix::Q8(_) => None,
        }
    }

    /// Rows `first..first + rows`, at most [`STREAM_ROWS`]. With `gated`, `out` is silu of the first half times the second.
    pub(super) fn stream(
        &self,
        product: &Product<'_>,
        (first, rows): (usize, usize),
        gated: bool,
    ) -> Result<(), BackendError> {
        let k = product.weight.cols;
        let n = product.weight.rows / if gated { 2 } else { 1 };
        let kind = if gated { "gated" } else { "linear" };
        self.stream_launch((kind, &product.types()), product.weight, rows)?
            .wide(product.x + (first * k * product.weight.element.size()) as u64)
            .wide(product.matrix)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(k)
            .wide(product.out.address() + (first * n * product.out.element().size()) as u64)
            .owed(product.owed)
            .run()
    }

    /// Up to [`STREAM_ROWS`] rows by a kernel of linear_stream.cu.
    pub(super) fn stream_launch(
        &self,
        (kind, types): (&str, &str),
        weight: &CudaWeight,
        rows: usize,
    ) -> Result<Launch<'_>, BackendError> {
        let most = if rows <= 8 { 8 } else { 16 };
        let shared = RING_BYTES + STREAM_WARPS * rows * STREAM_GROUP * 4;
        let launch = self.device.kernel(&format!("{kind}_stream_{most}_{types}"))?;
        Ok(launch
            .grid(self.device.facts.num_sms, 1, 1)
            .threads(STREAM_WARPS * 32)
            .shared(shared.max(least_shared_bytes(kind, weight, rows))))
    }

    /// Whether [`Self::ordered`] is the faster of two that give the same bits: a pass over the weights for each few rows, or
    /// one tile after the other on each multiprocessor (estimates for an H100, in ns).
    fn prefers_ordered(&self, (rows, n, k): (usize, usize, usize)) -> bool {
        let passes = rows.div_ceil(STREAM_ROWS) * (1500 + n * k / 1250);
        let tiles = rows.div_ceil(ORDERED_TILE.0) * n.div_ceil(ORDERED_TILE.1);
        let turns = tiles.div_ceil(self.device.facts.num_sms) * (2000 + k * 8);
        rows > STREAM_ROWS && turns < passes
    }

    /// More rows, with the bits of [`Self::stream`].
    fn ordered(&self, product: &Product<'_>, rows: usize) -> Result<(), BackendError> {
        let n = product.weight.rows;
        self.device
            .kernel(&format!("linear_ordered_{}", product.types()))?
            .grid(rows.div_ceil(ORDERED_TILE.0), n.div_ceil(ORDERED_TILE.1), 1)
            .threads(256)
            .shared(ORDERED_SHARED_BYTES)
            .product(product, rows)
            .run()
    }

    fn tiled(&self, product: &Product<'_>, rows: usize) -> Result<(), BackendError> {
        let n = product.weight.rows;
        self.device
            .kernel(&format!("linear_tiled_{}", product.types()))?
            .grid(n.div_ceil(TILE), rows.div_ceil(TILE), 1)
            .threads(256)
            .product(product, rows)
            .run()
    }

    pub(super) fn add_bias(&self, product: &Product<'_>, rows: usize) -> Result<(), BackendError> {
        let Some(bias) = product.bias else {
            return Ok(());
        };
        let n = product.weight.rows;
        self.device
            .kernel(&format!("add_bias_{}", product.out.element().name()))?
            .grid(n.div_ceil(256), rows, 1)
            .threads(256)
            .wide(bias.address())
            .int(n)
            .wide(product.out.address())
            .run()
    }
}
