//! Weights that are kept at 8 bits, as Q8_0 of GGUF has them: `cuda/linear_q8.cu`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, Element,
        device::DeviceMemory,
        linear::Product,
        scratch::{address, reserve},
        weight::{CudaWeight, Matrix, check_parts},
    },
    tensor::{HostTensor, WeightFormat},
};

/// Most rows of a product that reads the levels once.
const STREAM_ROWS: usize = 64;
/// Rows above which a weight is better dequantized into scratch memory and multiplied by cuBLASLt.
const DENSE_ROWS: usize = 128;
/// What that memory may take: the output layer of a large vocabulary, which few rows meet, stays without.
const MOST_DENSE_BYTES: usize = 256 << 20;
/// Columns of a slice, and as in linear_q8.cu: warps, weight rows of a group, bytes of the rings.
const SLICE: usize = 64;
const WARPS: usize = 8;
const GROUP: usize = 48;
const RING_BYTES: usize = WARPS * 3 * (GROUP * SLICE + GROUP * 4);
const THREADS: usize = 256;

/// A matrix of 8-bit levels.
pub(crate) struct Q8Matrix {
    levels: DeviceMemory,
    scales: DeviceMemory,
}

/// The matrix at 8 bits, if all its parts are, and the element type and the width have kernels for them.
pub(super) fn prepare(
    backend: &CudaBackend,
    parts: &[HostTensor],
) -> Result<Option<CudaWeight>, BackendError> {
    let element = backend.element;
    let all = parts
        .iter()
        .all(|part| part.format == WeightFormat::Q8_0 && part.order.is_none());
    let cols = parts.first().map_or(0, |part| part.cols);
    if !all || cols == 0 || element == Element::F32 || !cols.is_multiple_of(SLICE) {
        return Ok(None);
    }
    check_parts(parts)?;
    let rows = parts.iter().map(|part| part.rows).sum::<usize>();
    let device = &backend.device;
    let matrix = Q8Matrix {
        levels: device.alloc(rows * cols, "weights")?,
        scales: device.alloc(rows * cols / 32 * 2, "scales of weights")?,
    };
    let mut first_row = 0;
    for part in parts {
        let stored = device.alloc_for_upload(part.bytes.len(), "weights on their way")?;
        device.upload_weight(&part.bytes, &stored, 0)?;
        device
            .kernel("q8_pack")?
            .grid((part.rows * cols / SLICE).div_ceil(THREADS), 1, 1)
            .threads(THREADS)
            .wide(stored.address())
            .int(part.rows)
            .int(cols)
            .int(first_row)
            .int(rows)
            .wide(matrix.levels.address())
            .wide(matrix.scales.address())
            .run()?;
        // What was stored is given back.
        device.synchronize()?;
        first_row += part.rows;
    }
    let dense_bytes = rows * cols * element.size();
    if dense_bytes <= MOST_DENSE_BYTES {
        reserve(device, &backend.scratch.dense, dense_bytes)?;
    }
    Ok(Some(CudaWeight {
        matrix: Matrix::Q8(matrix),
        rows,
        cols,
        element,
    }))
}

impl CudaBackend {
    /// `out (rows, n) = x (rows, k) . matrix (n, k)^T + bias (n)`.
    pub(super) fn linear_q8(
        &self,
        product: &Product<'_>,
        matrix: &Q8Matrix,
        rows: usize,
    ) -> Result<(), BackendError> {
        let weight = product.weight;
        let is_small = weight.rows * weight.cols * weight.element.size() <= MOST_DENSE_BYTES;
        let dense = rows > DENSE_ROWS && is_small && !self.batch_invariant;
        if let Some(matmul) = self.matmul.as_ref().filter(|_| dense) {
            let dense = Product {
                matrix: self.dequantize_q8(weight, matrix)?,
                ..*product
            };
            matmul.run(&dense, rows)?;
            return self.add_bias(&dense, rows);
        }
        (0..rows)
            .step_by(STREAM_ROWS)
            .try_for_each(|first| self.stream_q8(product, matrix, (first, (rows - first).min(STREAM_ROWS))))
    }

    /// Rows `first..first + rows`, at most [`STREAM_ROWS`].
    fn stream_q8(
        &self,
        product: &Product<'_>,
        matrix: &Q8Matrix,
        (first, rows): (usize, usize),
    ) -> Result<(), BackendError> {
        let CudaWeight {
            rows: n,
            cols: k,
            element,
            ..
        } = *product.weight;
        let most = rows.next_power_of_two().max(8);
        let out = product.out.element();
        self.device
            .kernel(&format!("linear_q8_{most}_{}_{}", element.name(), out.name()))?
            .grid(self.device.facts.num_sms, 1, 1)
            .threads(WARPS * 32)
            .shared(RING_BYTES + WARPS * rows * GROUP * 4)
            .wide(product.x + (first * k * element.size()) as u64)
            .wide(matrix.levels.address())
            .wide(matrix.scales.address())
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(k)
            .wide(product.out.address() + (first * n * out.size()) as u64)
            .run()
    }

    /// The matrix in the element type, row-major, until the next one is: where it is.
    fn dequantize_q8(&self, weight: &CudaWeight, matrix: &Q8Matrix) -> Result<u64, BackendError> {
        let to = address(&self.scratch.dense);
        self.device
            .kernel(&format!("q8_dequantize_{}", weight.element.name()))?
            .grid(weight.rows, 1, 1)
            .threads(THREADS)
            .wide(matrix.levels.address())
            .wide(matrix.scales.address())
            .int(weight.rows)
            .int(weight.cols)
            .wide(to)
            .run()?;
        Ok(to)
    }

    /// Rows `ids` of the matrix.
    pub(super) fn embed_q8(
        &self,
        weight: &CudaWeight,
        matrix: &Q8Matrix,
        ids: &CudaIndices,
        (rows, out): (usize, &CudaBuffer),
    ) -> Result<(), BackendError> {
        self.device
            .kernel(&format!("q8_embed_{}", out.element().name()))?
            .grid(rows, 1, 1)
            .threads(THREADS)
            .wide(matrix.levels.address())
            .wide(matrix.scales.address())
            .wide(ids.address())
            .int(weight.rows)
            .int(weight.cols)
            .wide(out.address())
            .run()
    }
}
