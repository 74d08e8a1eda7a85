//! Dense products for AVX-512: tiles of 4 weight rows x 6 activation rows, or 8 x 1.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    avx512_decode::unroll,
    dense::{BF16, DenseKernel, DensePanel, Element, F16, F32, LANES},
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
        let mut c = 0;
        // SAFETY: the caller's promise; each tile is inside the panel.
        unsafe {
            match (panel.w_rows - r, panel.x_rows) {
                (8.., 1) => {
                    single::<E, 8, 1>(panel, r, 0);
                    r += 8;
                }
                (4.., _) => {
                    while c < panel.x_rows {
                        c += match panel.x_rows - c {
                            1 => quad::<E, 1>(panel, r, c),
                            2 => quad::<E, 2>(panel, r, c),
                            3 => quad::<E, 3>(panel, r, c),
                            4 | 5 => quad::<E, 4>(panel, r, c),
                            _ => quad::<E, 6>(panel, r, c),
                        };
                    }
                    r += 4;
                }
                _ => {
                    while c < panel.x_rows {
                        c += match panel.x_rows - c {
                            1 => single::<E, 1, 1>(panel, r, c),
                            2 | 3 => single::<E, 1, 2>(panel, r, c),
                            _ => single::<E, 1, 4>(panel, r, c),
                        };
                    }
                    r += 1;
                }
            }
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
    // SAFETY: the rows are inside the panel, and lanes past `k` are masked.
    unsafe {
        let w = panel.w.add(r * k * E::BYTES);
        let x = panel.x.add(c * k);
        let mut at = 0;
        while at + LANES <= k {
            if C < 4 {
                prefetch::<E, R>(w, k, at);
            }
            step::<E, R, C>(w, x, k, at, !0, &mut acc);
            at += LANES;
        }
        if at < k {
            step::<E, R, C>(w, x, k, at, (1 << (k - at)) - 1, &mut acc);
        }
    }
    acc
}

/// Adds the products of columns `at..at + 16`, as far as `lanes` names them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn step<E: Load, const R: usize, const C: usize>(
    w: *const u8,
    x: *const f32,
    k: usize,
    at: usize,
    lanes: __mmask16,
    acc: &mut [[__m512; C]; R],
) {
    // SAFETY: the caller's promise: R rows of w and C rows of x hold these columns.
    unsafe {
        let mut ws = [_mm512_setzero_ps(); R];
        unroll!(R, |i| {
            ws[i] = E::load(w.add((i * k + at) * E::BYTES), lanes);
        });
        unroll!(C, |j| {
            let x = _mm512_maskz_loadu_ps(lanes, x.add(j * k + at));
            unroll!(R, |i| {
                acc[i][j] = _mm512_fmadd_ps(ws[i], x, acc[i][j]);
            });
        });
    }
}

/// Fetches as much as a step reads of what comes R rows later: few activation rows wait for nothing but memory,
/// and the processor's own prefetcher stays within a page. Fetching past the end does no harm.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch<E: Load, const R: usize>(w: *const u8, k: usize, at: usize) {
    let ahead = w.wrapping_add(R * (k + at) * E::BYTES);
    for line in (0..R * LANES * E::BYTES).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
    }
}

/// Outputs of weight rows `r..r + R` and activation rows `c..c + C`, one by one; returns C.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn single<E: Load, const R: usize, const C: usize>(panel: &DensePanel, r: usize, c: usize) -> usize {
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

/// Outputs of weight rows `r..r + 4` and activation rows `c..c + C`; returns C.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn quad<E: Load, const C: usize>(panel: &DensePanel, r: usize, c: usize) -> usize {
    // SAFETY: the caller's promise; the tile is inside the panel.
    unsafe {
        let acc = dots::<E, 4, C>(panel, r, c);
        let bias = if panel.bias.is_null() {
            None
        } else {
            Some(_mm_loadu_ps(panel.bias.add(r)))
        };
        unroll!(2, |block| {
            let first = 4 * block;
            if first < C {
                // The last row stands in for those that are not there.
                let row = |i: usize| {
                    let column = |j: usize| acc[i][if first + j < C { first + j } else { C - 1 }];
                    [column(0), column(1), column(2), column(3)]
                };
                let sums = sum_lanes_16([row(0), row(1), row(2), row(3)]);
                unroll!(4, |j| {
                    if first + j < C {
                        let y = match bias {
                            Some(bias) => _mm_add_ps(sums[j], bias),
                            None => sums[j],
                        };
                        _mm_storeu_ps(panel.out.add((c + first + j) * panel.out_stride + r), y);
                    }
                });
            }
        });
    }
    C
}

/// The sums of 4 x 4 vectors' lanes, transposed, in the order of [`sum_lanes`] each.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_lanes_16(v: [[__m512; 4]; 4]) -> [__m128; 4] {
    let halves = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x44>(a, b),
            _mm512_shuffle_f32x4::<0xee>(a, b),
        )
    };
    let quarters = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0xdd>(a, b),
        )
    };
    let pairs = |a, b| _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
    let singles = |a, b| _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
    let [a, b, c, d] = v.map(|[a, b, c, d]| quarters(halves(a, b), halves(c, d)));
    let sums = singles(pairs(a, b), pairs(c, d));
    [
        _mm512_castps512_ps128(sums),
        _mm512_extractf32x4_ps::<1>(sums),
        _mm512_extractf32x4_ps::<2>(sums),
        _mm512_extractf32x4_ps::<3>(sums),
    ]
}
