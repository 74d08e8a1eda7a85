//! Products with dense matrices, row-major as the checkpoint has them, without a copy.
//!
//! An output is a dot product in 16 lanes, whatever the instruction set and the tile: lane l sums columns
//! l, l + 16, ... in order, each with a fused multiply-add; then lanes l and l + 8, l + 4, l + 2 and l + 1 are
//! added. Columns past the end count as zeros.
#![allow(unsafe_code)]

use super::{Output, packed::DenseMatrix};
use crate::{
    cpu::{Isa, ThreadPool, dequant},
    tensor::WeightFormat,
};

/// Lanes of a dot product.
pub(super) const LANES: usize = 16;

/// Bytes of activations that stay in the nearest cache while weight rows pass by.
const PANEL_BYTES: usize = 24 << 10;

/// Bytes of weights below which a task of its own is not worth its launch.
const MIN_TASK_BYTES: usize = 32 << 10;

impl DenseMatrix {
    /// Row `row` as f32.
    pub(super) fn row_into(&self, row: usize, out: &mut [f32]) {
        let len = self.row_bytes();
        dequant::dequantize_into(self.format, &self.bytes[row * len..(row + 1) * len], out);
    }

    fn row_bytes(&self) -> usize {
        self.cols * self.format.block_bytes()
    }
}

/// Computes `out[.., ..matrix.rows] = x . matrix^T (+ bias)`: x `(rows, matrix.cols)`.
pub(super) fn multiply(
    (pool, isa): (&ThreadPool, Isa),
    x: &[f32],
    rows: usize,
    matrix: &DenseMatrix,
    out: &Output<'_>,
) {
    let kernel = kernel(isa, matrix.format);
    let (k, row_bytes) = (matrix.cols, matrix.row_bytes());
    // A multiple of every kernel's tile.
    let wanted = matrix.rows.div_ceil(8 * pool.threads());
    let w_step = wanted.max(MIN_TASK_BYTES / row_bytes.max(1)).next_multiple_of(8);
    let x_step = (PANEL_BYTES / (4 * k).max(1)).max(6).next_multiple_of(6);
    let w_bytes: &[u8] = &matrix.bytes;
    pool.run(matrix.rows.div_ceil(w_step), |task| {
        let w_rows = task * w_step..matrix.rows.min((task + 1) * w_step);
        for x_row in (0..rows).step_by(x_step) {
            let panel = DensePanel {
                w: w_bytes[w_rows.start * row_bytes..w_rows.end * row_bytes].as_ptr(),
                w_rows: w_rows.len(),
                x: x[x_row * k..].as_ptr(),
                x_rows: x_step.min(rows - x_row),
                k,
                out: out.at(x_row, w_rows.start),
                out_stride: out.stride(),
                bias: out.bias_at(w_rows.start),
            };
            // SAFETY: the kernel was chosen for a processor that has `isa`; `w_bytes` and `x` hold these rows
            // (sliced above), `out` these rows and columns, which this task alone writes.
            unsafe { kernel(&panel) };
        }
    });
}

/// Some weight rows times some activation rows.
pub(super) struct DensePanel {
    /// `(w_rows, k)` elements of the kernel's format, at any alignment.
    pub(super) w: *const u8,
    pub(super) w_rows: usize,
    /// `(x_rows, k)`.
    pub(super) x: *const f32,
    pub(super) x_rows: usize,
    pub(super) k: usize,
    /// `(x_rows, w_rows)`, rows `out_stride` apart.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// `(w_rows)` or null.
    pub(super) bias: *const f32,
}

impl DensePanel {
    /// The output of activation row `c` and weight row `r`.
    ///
    /// # Safety
    /// `r < w_rows`, `c < x_rows`, and the pointers are valid.
    pub(super) unsafe fn put(&self, r: usize, c: usize, dot: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let y = if self.bias.is_null() {
                dot
            } else {
                dot + *self.bias.add(r)
            };
            self.out.add(c * self.out_stride + r).write(y);
        }
    }
}

/// Computes a panel.
///
/// # Safety
/// The processor has the kernel's instructions; the pointers are valid for what [`DensePanel`] says of them.
pub(super) type DenseKernel = unsafe fn(&DensePanel);

fn kernel(isa: Isa, format: WeightFormat) -> DenseKernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => super::dense_avx512::kernel(format),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::dense_avx2::kernel(format),
        _ => match format {
            WeightFormat::F16 => portable::<F16>,
            WeightFormat::BF16 => portable::<BF16>,
            _ => portable::<F32>,
        },
    }
}

/// An element type of dense weights.
pub(super) trait Element {
    const BYTES: usize;

    /// The element at `at` as f32.
    ///
    /// # Safety
    /// `at` points to an element, at any alignment.
    unsafe fn read(at: *const u8) -> f32;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_bits(u32::from_le(unsafe { at.cast::<u32>().read_unaligned() }))
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        half::f16::from_bits(u16::from_le(unsafe { at.cast::<u16>().read_unaligned() })).to_f32()
    }
}

impl Element for BF16 {
    const BYTES: usize = 2;

    #[inline]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        half::bf16::from_bits(u16::from_le(unsafe { at.cast::<u16>().read_unaligned() })).to_f32()
    }
}

/// The last `k % 16` elements of a row as a whole vector, zeros after them.
///
/// # Safety
/// `row` points to `k` elements.
pub(super) unsafe fn tail<E: Element>(row: *const u8, k: usize) -> [f32; LANES] {
    let start = k - k % LANES;
    std::array::from_fn(|lane| {
        if start + lane < k {
            // SAFETY: start + lane < k.
            unsafe { E::read(row.add((start + lane) * E::BYTES)) }
        } else {
            0.0
        }
    })
}

/// The sum of the lanes, halves added to halves.
pub(super) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

unsafe fn portable<E: Element>(panel: &DensePanel) {
    let k = panel.k;
    for r in 0..panel.w_rows {
        for c in 0..panel.x_rows {
            // SAFETY: the caller's promise: rows of `k` elements.
            unsafe {
                let w = panel.w.add(r * k * E::BYTES);
                let x = panel.x.add(c * k);
                let mut acc = [0.0_f32; LANES];
                for start in (0..k - k % LANES).step_by(LANES) {
                    for (lane, acc) in acc.iter_mut().enumerate() {
                        let at = start + lane;
                        *acc = E::read(w.add(at * E::BYTES)).mul_add(*x.add(at), *acc);
                    }
                }
                if !k.is_multiple_of(LANES) {
                    let x = tail::<F32>(x.cast(), k);
                    for ((acc, w), x) in acc.iter_mut().zip(tail::<E>(w, k)).zip(x) {
                        *acc = w.mul_add(x, *acc);
                    }
                }
                panel.put(r, c, sum_lanes(acc));
            }
        }
    }
}
