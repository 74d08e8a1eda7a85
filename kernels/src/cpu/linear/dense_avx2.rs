//! Dense products for AVX2: tiles of 2 weight rows x 2 activation rows, or 4 x 1. The 16 lanes of a dot product
//! are two vectors.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::dense::{BF16, DenseKernel, DensePanel, Element, F16, F32, LANES, tail};
use crate::tensor::WeightFormat;

/// The kernel of a format.
pub(super) fn kernel(format: WeightFormat) -> DenseKernel {
    match format {
        WeightFormat::F16 => panel::<F16>,
        WeightFormat::BF16 => panel::<BF16>,
        _ => panel::<F32>,
    }
}

/// Element types that load 8 at a time.
trait Load: Element {
    /// The 8 elements at `at` as f32.
    ///
    /// # Safety
    /// `at` points to 8 elements, at any alignment.
    unsafe fn load(at: *const u8) -> __m256;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

impl Load for BF16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(at.cast()) });
        // A bfloat16 is the upper half of an f32.
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel<E: Load>(panel: &DensePanel) {
    let mut r = 0;
    while r < panel.w_rows {
        let w_left = panel.w_rows - r;
        // SAFETY: the caller's promise; each tile is inside the panel.
        unsafe {
            if w_left >= 4 && panel.x_rows == 1 {
                tile::<E, 4, 1>(panel, r, 0);
                r += 4;
                continue;
            }
            let step = w_left.min(2);
            let mut c = 0;
            while c < panel.x_rows {
                c += match (step, panel.x_rows - c) {
                    (2, 1) => tile::<E, 2, 1>(panel, r, c),
                    (2, _) => tile::<E, 2, 2>(panel, r, c),
                    (_, 1) => tile::<E, 1, 1>(panel, r, c),
                    _ => tile::<E, 1, 2>(panel, r, c),
                };
            }
            r += step;
        }
    }
}

/// Outputs of weight rows `r..r + R` and activation rows `c..c + C`; returns C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)] // indices of the tile, also of w and x
unsafe fn tile<E: Load, const R: usize, const C: usize>(panel: &DensePanel, r: usize, c: usize) -> usize {
    let k = panel.k;
    let mut acc = [[[_mm256_setzero_ps(); 2]; C]; R];
    // SAFETY: the rows are inside the panel, and `k` elements long.
    unsafe {
        let w = panel.w.add(r * k * E::BYTES);
        let x = panel.x.add(c * k);
        for at in (0..k - k % LANES).step_by(LANES) {
            for half in 0..2 {
                let at = at + 8 * half;
                for i in 0..R {
                    let w = E::load(w.add((i * k + at) * E::BYTES));
                    for j in 0..C {
                        let x = _mm256_loadu_ps(x.add(j * k + at));
                        acc[i][j][half] = _mm256_fmadd_ps(w, x, acc[i][j][half]);
                    }
                }
            }
        }
        for i in 0..R {
            for j in 0..C {
                let [mut low, mut high] = acc[i][j];
                if !k.is_multiple_of(LANES) {
                    let w = tail::<E>(w.add(i * k * E::BYTES), k);
                    let x = tail::<F32>(x.add(j * k).cast(), k);
                    let load =
                        |lanes: &[f32; LANES], half: usize| _mm256_loadu_ps(lanes[8 * half..].as_ptr());
                    low = _mm256_fmadd_ps(load(&w, 0), load(&x, 0), low);
                    high = _mm256_fmadd_ps(load(&w, 1), load(&x, 1), high);
                }
                panel.put(r + i, c + j, sum_lanes(low, high));
            }
        }
    }
    C
}

/// As [`super::dense::sum_lanes`].
#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes(low: __m256, high: __m256) -> f32 {
    let v = _mm256_add_ps(low, high);
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
