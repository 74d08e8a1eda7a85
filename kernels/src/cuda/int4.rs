//! Weights that are kept in groups of 4-bit levels: `cuda/int4.cu`, `cuda/int4_pack.cu`; larger products: `int4_stream.rs`.

use std::sync::Arc;

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, Element,
        device::{Device, DeviceMemory},
        int4_plan::{Plans, STREAM_ROWS, Shape},
        linear::Product,
        scratch::{address, reserve},
        weight::{CudaWeight, Matrix, check_parts},
    },
    tensor::{HostTensor, WeightFormat},
};

/// Rows of a product that a block makes at once, its warps sharing out k.
pub(super) const FEW_ROWS: usize = 16;
/// Rows above which a weight is better dequantized into scratch memory and multiplied by cuBLASLt.
const DENSE_ROWS: usize = 64;
/// Rows of x that are brought into the order of a weight's columns at once.
const ORDERED_ROWS: usize = 256;
/// Weight rows of a tile, columns of a chunk, chunks that a warp takes at once: as in int4.cuh and int4.cu.
pub(super) const TILE: usize = 16;
pub(super) const CHUNK: usize = 128;
const TURN: usize = 4;
/// Most warps of a block of few rows.
const WARPS: usize = 8;
const THREADS: usize = 256;

/// A matrix of 4-bit levels: parts that differ in their groups or in the order of their columns, stacked.
pub(crate) struct Int4Matrix {
    pub(super) parts: Vec<Part>,
}

pub(super) struct Part {
    pub(super) levels: DeviceMemory,
    pub(super) scales: DeviceMemory,
    /// None where 8 stands for 0 everywhere.
    zeros: Option<DeviceMemory>,
    pub(super) order: Option<DeviceMemory>,
    first_row: usize,
    pub(super) shape: Shape,
    /// Of its products by rings.
    pub(super) plans: Plans,
}

/// The matrix at 4 bits, if all its parts are, and the element type has kernels for them.
pub(super) fn prepare(
    backend: &CudaBackend,
    parts: &[HostTensor],
) -> Result<Option<CudaWeight>, BackendError> {
    let element = backend.element;
    let all = parts.iter().all(|part| group_of(part.format).is_some());
    if parts.is_empty() || !all || element == Element::F32 {
        return Ok(None);
    }
    let cols = check_parts(parts)?;
    let mut matrix = Int4Matrix { parts: Vec::new() };
    let mut rows = 0;
    for alike in parts.chunk_by(|a, b| a.format == b.format && a.order == b.order) {
        let part = Part::pack(&backend.device, alike, rows)?;
        rows += part.shape.rows;
        matrix.parts.push(part);
    }
    let size = element.size();
    reserve(&backend.device, &backend.scratch.dense, rows * cols * size)?;
    if matrix.parts.iter().any(|part| part.order.is_some()) {
        reserve(
            &backend.device,
            &backend.scratch.ordered,
            ORDERED_ROWS * cols * size,
        )?;
    }
    Ok(Some(CudaWeight {
        matrix: Matrix::Int4(matrix),
        rows,
        cols,
        element,
    }))
}

fn group_of(format: WeightFormat) -> Option<usize> {
    match format {
        WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => Some(format.block_len()),
        _ => None,
    }
}

impl Part {
    /// Packs tensors of one format and order, one after the other.
    fn pack(device: &Arc<Device>, tensors: &[HostTensor], first_row: usize) -> Result<Self, BackendError> {
        let (cols, group) = (tensors[0].cols, tensors[0].format.block_len());
        let rows = tensors.iter().map(|tensor| tensor.rows).sum::<usize>();
        let shape = Shape { rows, cols, group };
        let bytes = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        let stored = device.alloc_for_upload(bytes, "weights on their way")?;
        let mut offset = 0;
        for tensor in tensors {
            device.upload_weight(&tensor.bytes, &stored, offset)?;
            offset += tensor.bytes.len();
        }
        let (padded, chunks) = (rows.next_multiple_of(TILE), cols.div_ceil(CHUNK));
        let groups = padded * (chunks * CHUNK / group);
        let levels = device.alloc(padded * chunks * CHUNK / 2, "weights")?;
        let scales = device.alloc(2 * groups, "scales of weights")?;
        let zeros = device.alloc(2 * groups, "zero levels of weights")?;
        let others = device.alloc(4, "a flag")?;
        let pack = |name: &str, threads: usize| {
            let launch = device.kernel(name)?;
            let launch = launch.grid(threads.div_ceil(THREADS), 1, 1).threads(THREADS);
            Ok::<_, BackendError>(
                launch
                    .wide(stored.address())
                    .int(rows)
                    .int(cols)
                    .int(group)
                    .int(chunks),
            )
        };
        pack("int4_pack_levels", rows * chunks * CHUNK / 8)?
            .wide(levels.address())
            .run()?;
        pack("int4_pack_groups", groups)?
            .int(padded)
            .wide(scales.address())
            .wide(zeros.address())
            .wide(others.address())
            .run()?;
        let mut has_others = [0; 4];
        device.download(&others, &mut has_others)?;
        let order = tensors[0].order.as_ref().map(|order| {
            let bytes: Vec<u8> = order.iter().flat_map(|input| input.to_le_bytes()).collect();
            let memory = device.alloc(bytes.len(), "the order of columns")?;
            device.upload(&bytes, &memory, 0)?;
            Ok::<_, BackendError>(memory)
        });
        Ok(Self {
            levels,
            scales,
            zeros: (has_others != [0; 4]).then_some(zeros),
            order: order.transpose()?,
            first_row,
            plans: Plans::new(&shape, device.facts.capability, &device.clusters),
            shape,
        })
    }

    pub(super) fn zeros(&self) -> u64 {
        self.zeros.as_ref().map_or(0, DeviceMemory::address)
    }

    fn order(&self) -> u64 {
        self.order.as_ref().map_or(0, DeviceMemory::address)
    }

    pub(super) fn chunks(&self) -> usize {
        self.shape.cols.div_ceil(CHUNK)
    }
}

impl CudaBackend {
    /// `out (rows, n) = x (rows, k) . matrix (n, k)^T + bias (n)`.
    pub(super) fn linear_int4(
        &self,
        product: &Product<'_>,
        matrix: &Int4Matrix,
        rows: usize,
    ) -> Result<(), BackendError> {
        let matmul = self.matmul.as_ref().filter(|_| !self.batch_invariant);
        if let Some(matmul) = matmul.filter(|_| rows > DENSE_ROWS) {
            let dense = Product {
                matrix: self.dequantize(product.weight, matrix)?,
                ..*product
            };
            matmul.run(&dense, rows)?;
            return self.add_bias(&dense, rows);
        }
        for part in &matrix.parts {
            let most = match self.batch_invariant {
                true => FEW_ROWS, // for which a row's bits depend on the weight alone
                false if part.order.is_some() => ORDERED_ROWS,
                false => rows.max(1),
            };
            for first in (0..rows).step_by(most) {
                let some = first..rows.min(first + most);
                let x = product.x + (first * part.shape.cols * product.weight.element.size()) as u64;
                let ordered = part
                    .order
                    .as_ref()
                    .map(|_| self.in_order(product, part, x, some.len()));
                self.part(product, part, ordered.transpose()?.unwrap_or(x), some)?;
            }
        }
        Ok(())
    }

    /// Rows `rows` of the product with one part; `x` is where the first of them is.
    fn part(
        &self,
        product: &Product<'_>,
        part: &Part,
        x: u64,
        rows: std::ops::Range<usize>,
    ) -> Result<(), BackendError> {
        let n = product.weight.rows;
        let bias = product
            .bias
            .map_or(0, |bias| bias.address() + 4 * part.first_row as u64);
        let mut first = rows.start;
        while first < rows.end {
            let x = x + ((first - rows.start) * part.shape.cols * product.weight.element.size()) as u64;
            let out =
                product.out.address() + ((first * n + part.first_row) * product.out.element().size()) as u64;
            // As many at once as there is a plan for.
            let at_once = [STREAM_ROWS, 2 * FEW_ROWS, FEW_ROWS].map(|most| most.min(rows.end - first));
            let streamed = at_once.into_iter().find_map(|some| {
                let done = self.stream_int4(product, part, (x, some), (bias, n, out))?;
                Some(done.map(|()| some))
            });
            first += match streamed {
                Some(done) => done?,
                None => {
                    self.few(product, part, (x, at_once[2]), (bias, n, out))?;
                    at_once[2]
                }
            };
        }
        Ok(())
    }

    /// Up to [`FEW_ROWS`] rows of the product with one part; `to` as that of [`Self::stream_int4`].
    fn few(
        &self,
        product: &Product<'_>,
        part: &Part,
        (x, rows): (u64, usize),
        (bias, stride, out): (u64, usize, u64),
    ) -> Result<(), BackendError> {
        let tiles = part.shape.rows.div_ceil(TILE);
        let rows_of_8 = rows.div_ceil(8);
        // All but how many rows there are depends on the weight alone, so that a row's bits do. Where the warps of a block
        // would have many turns each, a cluster shares them.
        let turns = part.chunks().div_ceil(TURN);
        let slices = match self.device.facts.capability >= (9, 0) {
            true => turns.div_ceil(2 * WARPS).next_power_of_two().min(4),
            false => 1,
        };
        let share = turns.div_ceil(slices);
        let warps = share.div_ceil(share.div_ceil(WARPS));
        let kernel = format!(
            "int4_few_{rows_of_8}_g{}_{}",
            part.shape.group,
            product.weight.element.name()
        );
        self.device
            .kernel(&kernel)?
            .grid(tiles * slices, 1, 1)
            .threads(32 * warps)
            .shared(4 * warps * 8 * rows_of_8 * (TILE + 4))
            .cluster(slices)
            .wide(x)
            .wide(part.levels.address())
            .wide(part.scales.address())
            .wide(part.zeros())
            .wide(bias)
            .int(rows)
            .int(part.shape.rows)
            .int(part.shape.cols)
            .int(stride)
            .int(usize::from(product.out.element() == Element::F32))
            .int(slices)
            .wide(out)
            .run()
    }

    /// `rows` rows from `x` on with their columns in the part's order: where they are.
    pub(super) fn in_order(
        &self,
        product: &Product<'_>,
        part: &Part,
        x: u64,
        rows: usize,
    ) -> Result<u64, BackendError> {
        let to = address(&self.scratch.ordered);
        self.device
            .kernel(&format!("int4_order_columns_{}", product.weight.element.name()))?
            .grid(part.shape.cols.div_ceil(THREADS), rows, 1)
            .threads(THREADS)
            .wide(x)
            .wide(part.order())
            .int(part.shape.cols)
            .wide(to)
            .run()?;
        Ok(to)
    }

    /// The matrix in the element type, row-major, until the next one is: where it is.
    pub(super) fn dequantize(&self, weight: &CudaWeight, matrix: &Int4Matrix) -> Result<u64, BackendError> {
        let to = address(&self.scratch.dense);
        for part in &matrix.parts {
            let words = part.shape.rows * part.chunks() * CHUNK / 8;
            self.device
                .kernel(&format!("int4_dequantize_{}", weight.element.name()))?
                .grid(words.div_ceil(THREADS), 1, 1)
                .threads(THREADS)
                .wide(part.levels.address())
                .wide(part.scales.address())
                .wide(part.zeros())
                .wide(part.order())
                .int(part.shape.rows)
                .int(part.shape.cols)
                .int(part.shape.group)
                .wide(to + (part.first_row * part.shape.cols * weight.element.size()) as u64)
                .run()?;
        }
        Ok(to)
    }

    /// Rows `ids` of the matrix.
    pub(super) fn embed_int4(
        &self,
        weight: &CudaWeight,
        matrix: &Int4Matrix,
        ids: &CudaIndices,
        rows: usize,
        out: &CudaBuffer,
    ) -> Result<(), BackendError> {
        for part in &matrix.parts {
            self.device
                .kernel(&format!("int4_gather_{}", weight.element.name()))?
                .grid(part.shape.cols.div_ceil(THREADS), rows, 1)
                .threads(THREADS)
                .wide(part.levels.address())
                .wide(part.scales.address())
                .wide(part.zeros())
                .wide(part.order())
                .wide(ids.address())
                .int(part.first_row)
                .int(part.shape.rows)
                .int(part.shape.cols)
                .int(part.shape.group)
                .int(usize::from(out.element() == Element::F32))
                .wide(out.address())
                .run()?;
        }
        Ok(())
    }
}
