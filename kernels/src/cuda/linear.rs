//! Products with weights, and embeddings.

use crate::{
    backend::BackendError,
    cpu::shape_error,
    cuda::{CudaBackend, CudaBuffer, CudaIndices, CudaWeight, Element, norm::row_threads, weight::Matrix},
    ops::LinearOps,
};

/// Rows of a product whose weights are read straight into tensor-core registers; above, cuBLASLt is faster.
const GEMV_ROWS: usize = 16;
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
            x: x.address(),
            matrix: match &weight.matrix {
                Matrix::Dense(memory) => memory.address(),
                Matrix::Int4(_) => 0,
            },
            weight,
            bias,
            out,
        };
        if let Matrix::Int4(matrix) = &weight.matrix {
            return self.linear_int4(&product, matrix, rows);
        }
        if element == Element::F32 || !k.is_multiple_of(8) {
            return self.tiled(&product, rows);
        }
        if let Some(matmul) = self.matmul.as_ref().filter(|_| rows > GEMV_ROWS) {
            matmul.run(&product, rows)?;
            return self.add_bias(&product, rows);
        }
        for first in (0..rows).step_by(GEMV_ROWS) {
            self.gemv(&product, first, (rows - first).min(GEMV_ROWS))?;
        }
        Ok(())
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
    /// Where the dense matrix is.
    pub(super) matrix: u64,
    pub(super) weight: &'a CudaWeight,
    pub(super) bias: Option<&'a CudaBuffer>,
    pub(super) out: &'a CudaBuffer,
}

impl Product<'_> {
    fn types(&self) -> String {
        format!("{}_{}", self.weight.element.name(), self.out.element().name())
    }
}

impl CudaBackend {
    /// Rows `first..first + rows`, at most [`GEMV_ROWS`].
    fn gemv(&self, product: &Product<'_>, first: usize, rows: usize) -> Result<(), BackendError> {
        let (n, k) = (product.weight.rows, product.weight.cols);
        // Few columns are cut finer, as far as the device lets two blocks share a tile: so they divide better.
        let clusters = self.device.facts.capability >= (9, 0);
        let (name, blocks, threads) = match n {
            ..=4096 if clusters => ("half", 2 * n.div_ceil(8), 128),
            ..=4096 => ("1", n.div_ceil(8), 256),
            _ => ("2", n.div_ceil(16), 256),
        };
        self.device
            .kernel(&format!("gemv_{name}_{}", product.types()))?
            .grid(blocks, 1, 1)
            .threads(threads)
            .wide(product.x + (first * k * product.weight.element.size()) as u64)
            .wide(product.matrix)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(k)
            .wide(product.out.address() + (first * n * product.out.element().size()) as u64)
            .run()
    }

    fn tiled(&self, product: &Product<'_>, rows: usize) -> Result<(), BackendError> {
        let (n, k) = (product.weight.rows, product.weight.cols);
        self.device
            .kernel(&format!("linear_tiled_{}", product.types()))?
            .grid(n.div_ceil(TILE), rows.div_ceil(TILE), 1)
            .threads(256)
            .wide(product.x)
            .wide(product.matrix)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(k)
            .wide(product.out.address())
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
