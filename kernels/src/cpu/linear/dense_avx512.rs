//! Dense products for AVX-512: tiles of 4 weight rows x 4 activation rows, or 8 x 1.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    avx512_decode::unroll,
    dense::{BF16, DenseKernel, DensePanel, Element, F16, F32},
};
use crate::tensor::WeightFormat;

/// The kernel of a format.
pub(super) fn kernel(format: WeightFormat) -> DenseKernel {
    match format {
        WeightFormat::F16 => panel::<F16>,
        WeightFormat::BF16 => panel::<BF16>,
        _ => panel::<F32>,
    }
}

/// Element types that load 16 at a time.
trait Load: Element {
    /// The elements at `at` that `lanes` names as f32, 0 for the others.
    ///
    /// # Safety
    /// `at` points to those elements, at any alignment.
    unsafe fn load(at: *const u8, lanes: __mmask16) -> __m512;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, lanes: __mmask16) -> __m512 {
        // SAFETY: the caller's promise; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(lanes, at.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, lanes: __mmask16) -> __m512 {
        // SAFETY: as above.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(lanes, at.cast()) })
    }
}

impl Load for BF16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, lanes: __mmask16) -> __m512 {
        // SAFETY: as above.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(lanes, at.cast()) });
        // A bfloat16 is the upper half of an f32.
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn panel<E: Load>(panel: &DensePanel) {
    let mut r = 0;
    while r < panel.w_rows {
        let w_left = panel.w_rows - r;
        let mut c = 0;
        // SAFETY: the caller's promise; each tile is inside the panel.
        unsafe {
            while c + 4 <= panel.x_rows && w_left >= 4 {
                tile_4x4::<E>(panel, r, c);
                c += 4;
            }
            if w_left >= 8 && panel.x_rows == 1 {
                tile::<E, 8, 1>(panel, r, 0);
                r += 8;
                continue;
            }
            let step = if w_left >= 4 { 4 } else { 1 };
            while c < panel.x_rows {
                c += match (step, panel.x_rows - c) {
                    (4, 1) => tile::<E, 4, 1>(panel, r, c),
                    (4, 2) => tile::<E, 4, 2>(panel, r, c),
                    (4, _) => tile::<E, 4, 3>(panel, r, c),
                    (_, 1) => tile::<E, 1, 1>(panel, r, c),
                    (_, 2..4) => tile::<E, 1, 2>(panel, r, c),
                    _ => tile::<E, 1, 4>(panel, r, c),
                };
            }
            r += step;
        }
    }
}

/// The lanes of the dot products of weight rows `r..r + R` and activation rows `c..c + C`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn dots<E: Load, const R: usize, const C: usize>(
    panel: &DensePanel,
    r: usize,
    c: usize,
) -> [[__m512; C]; R] {
    let k = panel.k;
    let mut acc = [[_mm512_setzero_ps(); C]; R];
    let mut at = 0;
    while at < k {
        let lanes = if k - at >= 16 { !0 } else { (1 << (k - at)) - 1 };
        // SAFETY: the rows are inside the panel, and lanes past `k` are masked.
        unsafe {
            let w = panel.w.add((r * k + at) * E::BYTES);
            let x = panel.x.add(c * k + at);
            let mut xs = [_mm512_setzero_ps(); C];
            unroll!(C, |j| {
                xs[j] = _mm512_maskz_loadu_ps(lanes, x.add(j * k));
            });
            unroll!(R, |i| {
                let w = E::load(w.add(i * k * E::BYTES), lanes);
                unroll!(C, |j| {
                    acc[i][j] = _mm512_fmadd_ps(w, xs[j], acc[i][j]);
                });
            });
        }
        at += 16;
    }
    acc
}

/// Outputs of weight rows `r..r + R` and activation rows `c..c + C`; returns C.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<E: Load, const R: usize, const C: usize>(panel: &DensePanel, r: usize, c: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let acc = dots::<E, R, C>(panel, r, c);
        unroll!(R, |i| {
            unroll!(C, |j| {
                panel.put(r + i, c + j, sum_lanes(acc[i][j]));
            });
        });
    }
    C
}

/// As [`super::dense::sum_lanes`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn sum_lanes(v: __m512) -> f32 {
    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Outputs of 4 weight rows and 4 activation rows: the lanes of 16 dot products are summed together, in the
/// order of [`sum_lanes`] each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile_4x4<E: Load>(panel: &DensePanel, r: usize, c: usize) {
    // SAFETY: the caller's promise.
    let acc = unsafe { dots::<E, 4, 4>(panel, r, c) };
    let mut quarters = [_mm512_setzero_ps(); 4];
    unroll!(4, |i| {
        let [a, b, c, d] = acc[i];
        let ab = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x44>(a, b),
            _mm512_shuffle_f32x4::<0xee>(a, b),
        );
        let cd = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x44>(c, d),
            _mm512_shuffle_f32x4::<0xee>(c, d),
        );
        // 4 lanes left of each of a, b, c, d.
        quarters[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x88>(ab, cd),
            _mm512_shuffle_f32x4::<0xdd>(ab, cd),
        );
    });
    let [a, b, c_, d] = quarters;
    let ab = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
    let cd = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(c_, d), _mm512_shuffle_ps::<0xee>(c_, d));
    // Quarter j holds the outputs of activation row j, a lane a weight row.
    let mut y = _mm512_add_ps(
        _mm512_shuffle_ps::<0x88>(ab, cd),
        _mm512_shuffle_ps::<0xdd>(ab, cd),
    );
    // SAFETY: the tile is inside the panel.
    unsafe {
        if !panel.bias.is_null() {
            y = _mm512_add_ps(y, _mm512_broadcast_f32x4(_mm_loadu_ps(panel.bias.add(r))));
        }
        let out = panel.out.add(c * panel.out_stride + r);
        _mm_storeu_ps(out, _mm512_castps512_ps128(y));
        _mm_storeu_ps(out.add(panel.out_stride), _mm512_extractf32x4_ps::<1>(y));
        _mm_storeu_ps(out.add(2 * panel.out_stride), _mm512_extractf32x4_ps::<2>(y));
        _mm_storeu_ps(out.add(3 * panel.out_stride), _mm512_extractf32x4_ps::<3>(y));
    }
}
