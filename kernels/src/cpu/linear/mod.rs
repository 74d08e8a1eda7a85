//! Products with prepared weights.
//!
//! Quantized weights are packed at load ([`packed`], [`pack`]); activations are rounded to 8 bits a step
//! ([`quantize`]); [`gemm`] cuts the product into tiles, which a kernel of the processor's instruction set
//! computes ([`tile`]; [`amx`], [`avx512`], [`avx2`], [`portable`]). Dense weights are multiplied in place ([`dense`]).
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_decode;
mod dense;
#[cfg(target_arch = "x86_64")]
mod dense_avx2;
#[cfg(target_arch = "x86_64")]
mod dense_avx512;
mod gemm;
mod pack;
mod packed;
mod portable;
mod quantize;
mod tile;

use std::{marker::PhantomData, sync::Arc};

use self::{
    gemm::Activations,
    packed::{DenseMatrix, GROUP, PackedFormat, PackedMatrix},
    quantize::Terms,
};
use crate::{
    backend::BackendError,
    cpu::{
        AlignedBuf, CpuBackend, CpuBuffer, CpuIndices, DEVICE, ThreadPool, buffer, check_host_tensor,
        check_len,
    },
    ops::LinearOps,
    tensor::HostTensor,
};

/// A matrix `(n, k)`: parts stacked along their rows, each in its own format.
#[derive(Debug)]
pub struct CpuWeight {
    parts: Vec<Part>,
    n: usize,
    k: usize,
}

#[derive(Debug)]
struct Part {
    matrix: Matrix,
    /// Which input each stored column multiplies, where they are not in order.
    order: Option<Arc<[u32]>>,
}

#[derive(Debug)]
enum Matrix {
    Dense(DenseMatrix),
    Packed(PackedMatrix),
}

impl CpuWeight {
    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(super) fn prepare(backend: &CpuBackend, parts: &[HostTensor]) -> Result<Self, BackendError> {
        let Some(first) = parts.first() else {
            return Err(BackendError::Shape("a weight without parts".to_owned()));
        };
        for part in parts {
            check_host_tensor(part)?;
            if part.rows == 0 || part.cols == 0 {
                return Err(BackendError::Shape(format!(
                    "a {} matrix of {} x {} is empty",
                    part.format, part.rows, part.cols
                )));
            }
            if part.cols != first.cols {
                return Err(BackendError::Shape(format!(
                    "parts of {} and {} columns do not stack",
                    first.cols, part.cols
                )));
            }
        }
        let prepared: Result<Vec<Part>, BackendError> = parts
            .chunk_by(stack_in_one)
            .map(|parts| Part::prepare(backend, parts))
            .collect();
        Ok(Self {
            parts: prepared?,
            n: parts.iter().map(|part| part.rows).sum(),
            k: first.cols,
        })
    }

    /// Bytes allocated beyond the checkpoint's.
    pub(super) fn packed_bytes(&self) -> usize {
        let bytes = |part: &Part| match &part.matrix {
            Matrix::Dense(_) => 0,
            Matrix::Packed(matrix) => matrix.len_bytes(),
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Row `row`, below `n`, as f32.
    fn row_into(&self, mut row: usize, out: &mut [f32]) {
        for part in &self.parts {
            if row < part.rows() {
                return part.row_into(row, out);
            }
            row -= part.rows();
        }
    }
}

impl Part {
    /// Prepares tensors that [`stack_in_one`].
    fn prepare(backend: &CpuBackend, tensors: &[HostTensor]) -> Result<Self, BackendError> {
        Ok(Self {
            matrix: Matrix::prepare(backend, tensors)?,
            order: tensors[0].order.clone(),
        })
    }

    fn rows(&self) -> usize {
        match &self.matrix {
            Matrix::Dense(matrix) => matrix.rows,
            Matrix::Packed(matrix) => matrix.rows,
        }
    }

    fn row_into(&self, row: usize, out: &mut [f32]) {
        match &self.matrix {
            Matrix::Dense(matrix) => matrix.row_into(row, out),
            Matrix::Packed(matrix) => matrix.row_into(row, out),
        }
        if let Some(order) = &self.order {
            let stored = out.to_vec();
            for (x, &input) in stored.into_iter().zip(order.iter()) {
                out[input as usize] = x;
            }
        }
    }
}

impl Matrix {
    fn prepare(backend: &CpuBackend, tensors: &[HostTensor]) -> Result<Self, BackendError> {
        let tensor = &tensors[0];
        let Some(format) = PackedFormat::of(tensor.format) else {
            return Ok(Self::Dense(DenseMatrix {
                format: tensor.format,
                rows: tensor.rows,
                cols: tensor.cols,
                bytes: tensor.bytes.clone(),
            }));
        };
        let packed = pack::pack((backend.pool(), &backend.arena), tensors, format).ok_or_else(|| {
            let rows: usize = tensors.iter().map(|tensor| tensor.rows).sum();
            BackendError::OutOfMemory {
                device: DEVICE,
                what: format!("a {} matrix of {rows} x {}", tensor.format, tensor.cols),
                needed: tensors.iter().map(|tensor| tensor.bytes.len()).sum(),
                available: buffer::available_memory_bytes(),
            }
        })?;
        for tensor in tensors {
            tensor.bytes.release();
        }
        Ok(Self::Packed(packed))
    }
}

/// Whether `lower` becomes part of the same packed matrix as `upper`: one product for both.
fn stack_in_one(upper: &HostTensor, lower: &HostTensor) -> bool {
    PackedFormat::of(upper.format).is_some()
        && upper.format == lower.format
        && upper.order == lower.order
        && upper.rows.is_multiple_of(GROUP)
}

impl LinearOps for CpuBackend {
    fn linear(
        &self,
        x: &CpuBuffer,
        weight: &CpuWeight,
        bias: Option<&CpuBuffer>,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (n, k) = (weight.n, weight.k);
        check_len("x", x.len(), rows * k)?;
        check_len("out", out.len(), rows * n)?;
        if let Some(bias) = bias {
            check_len("bias", bias.len(), n)?;
        }
        if rows == 0 {
            return Ok(());
        }
        let x = &x[..rows * k];
        let mut out = Output::new(&mut out[..rows * n], n, bias.map(|bias| &bias[..n]));
        let on = (self.pool(), self.isa());
        for part in &weight.parts {
            let mut gathered;
            let x = match &part.order {
                None => x,
                Some(order) => {
                    gathered = self.gathered();
                    gather(self.pool(), x, order, &mut gathered)
                        .ok_or_else(|| out_of_scratch(4 * rows * k))?
                }
            };
            match &part.matrix {
                Matrix::Dense(matrix) => dense::multiply(on, x, rows, matrix, &out),
                Matrix::Packed(matrix) => {
                    let mut scratch = self.scratch();
                    let terms = Terms::of(matrix.format);
                    let x = Activations::quantize(on, x, (rows, k), terms, &mut scratch)
                        .ok_or_else(|| out_of_scratch(rows * k))?;
                    gemm::multiply(on, &x, matrix, &out);
                }
            }
            out.skip_columns(part.rows());
        }
        Ok(())
    }

    fn embed(
        &self,
        table: &CpuWeight,
        ids: &CpuIndices,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let k = table.k;
        check_len("ids", ids.len(), rows)?;
        check_len("out", out.len(), rows * k)?;
        let ids = &ids[..rows];
        if let Some(id) = ids.iter().find(|id| **id as usize >= table.n) {
            return Err(BackendError::Shape(format!(
                "row {id} of a table of {} rows",
                table.n
            )));
        }
        self.pool().run_chunks(&mut out[..rows * k], k, |row, out| {
            table.row_into(ids[row] as usize, out);
        });
        Ok(())
    }
}

/// The columns of `x` in the order that a part stores its own; `None` if there is no memory.
fn gather<'a>(
    pool: &ThreadPool,
    x: &[f32],
    order: &[u32],
    scratch: &'a mut AlignedBuf<f32>,
) -> Option<&'a [f32]> {
    if scratch.len() < x.len() {
        *scratch = AlignedBuf::zeroed(x.len())?;
    }
    let out = &mut scratch[..x.len()];
    pool.run_chunks(out, order.len(), |row, out| {
        let x = &x[row * order.len()..][..order.len()];
        for (out, &input) in out.iter_mut().zip(order) {
            *out = x[input as usize];
        }
    });
    Some(out)
}

/// Where a product goes: some columns of `(rows, stride)`, written by several threads, each its own part.
struct Output<'a> {
    out: *mut f32,
    rows: usize,
    stride: usize,
    /// First column of the current part.
    column: usize,
    bias: Option<&'a [f32]>,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for a mutable borrow; who writes through it answers for writing disjoint parts.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    fn new(out: &'a mut [f32], stride: usize, bias: Option<&'a [f32]>) -> Self {
        Self {
            rows: out.len() / stride.max(1),
            out: out.as_mut_ptr(),
            stride,
            column: 0,
            bias,
            borrow: PhantomData,
        }
    }

    /// Elements between rows.
    fn stride(&self) -> usize {
        self.stride
    }

    /// The output of `row` and of column `col` of the current part.
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        assert!(row < self.rows && self.column + col < self.stride);
        // SAFETY: just checked.
        unsafe { self.out.add(row * self.stride + self.column + col) }
    }

    /// The bias of column `col` of the current part and of those after it, or null.
    fn bias_at(&self, col: usize) -> *const f32 {
        self.bias
            .map_or(std::ptr::null(), |bias| bias[self.column + col..].as_ptr())
    }

    /// Goes on to the next part.
    fn skip_columns(&mut self, columns: usize) {
        self.column += columns;
    }
}

fn out_of_scratch(needed: usize) -> BackendError {
    BackendError::OutOfMemory {
        device: DEVICE,
        what: "activations as the weights want them".to_owned(),
        needed,
        available: buffer::available_memory_bytes(),
    }
}
