//! Tile kernels for AVX2.
//!
//! Products of unsigned and signed bytes are summed in pairs to i16 (`vpmaddubsw`), which must not overflow:
//! each format says how many of its quads a sum of i16 can take.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    packed::{GROUP_SCALES_BYTES, PackedFormat, Quants, Scales},
    tile::{Tile, TileKernel, dispatch_format},
};

/// The kernel of a format.
pub(super) fn kernel(format: PackedFormat) -> TileKernel {
    dispatch_format!(format, any_rows)
}

/// Levels of 8 rows of a block.
trait Levels {
    const BLOCK_BYTES: usize;
    /// Quads whose products with activations in -127..=127 an i16 holds the sum of: `2 * 127 * quads * largest
    /// level <= 32767`.
    const QUADS_A_SUM: usize;
    /// Whether quads are signed, their zero level taken off.
    const SIGNED: bool;

    /// The 8 quads of rows `8 * half..8 * half + 8`.
    ///
    /// # Safety
    /// `levels` points to a block of this kind.
    unsafe fn quads(levels: *const u8, half: usize) -> [__m256i; 8];
}

/// Scales of a block.
trait Affine {
    const HAS_MIN: bool;
    const HALVES: bool;

    /// For rows `8 * half..8 * half + 8`: scales of both halves of the block (equal unless `HALVES`), and
    /// minimums (0 unless `HAS_MIN`).
    ///
    /// # Safety
    /// `scales` points to the scales of a group with more than `block` blocks.
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn any_rows<L: Levels, A: Affine>(tile: &Tile) {
    for half in 0..tile.cols.div_ceil(8) {
        let mut first = 0;
        while first < tile.rows {
            // SAFETY: the caller's promise; `first + N <= tile.rows`.
            first += unsafe {
                match tile.rows - first {
                    1 => rows::<L, A, 1>(tile, half, first),
                    2 | 3 => rows::<L, A, 2>(tile, half, first),
                    _ => rows::<L, A, 4>(tile, half, first),
                }
            };
        }
    }
}

/// Rows `first..first + N` of half a tile; returns N.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<L: Levels, A: Affine, const N: usize>(tile: &Tile, half: usize, first: usize) -> usize {
    let n = tile.rows;
    let record_bytes = n * if A::HALVES { 44 } else { 40 };
    let mut record = tile.x;
    let mut levels = tile.quants;
    let mut acc = [_mm256_setzero_ps(); N];
    for block in 0..tile.blocks {
        // SAFETY: `Tile` has `blocks` blocks of levels and scales, and as many records of `n` rows.
        unsafe {
            let q = L::quads(levels, half);
            let (scale, min) = A::at(tile.scales, block, half);
            let scales = record.add(32 * n).cast::<f32>();
            let terms = record.add(36 * n).cast::<i32>();
            for (r, acc) in acc.iter_mut().enumerate() {
                let row = first + r;
                let x = record.add(32 * row).cast::<i32>();
                let x_scale = _mm256_set1_ps(scales.add(row).read_unaligned());
                let term = |index: usize| {
                    if A::HAS_MIN || L::SIGNED {
                        _mm256_setzero_si256()
                    } else {
                        _mm256_set1_epi32(terms.add(index).read_unaligned())
                    }
                };
                let low = dot4::<L>(&q, 0, x, term(row));
                if A::HALVES {
                    let high = dot4::<L>(&q, 4, x, term(n + row));
                    *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), _mm256_mul_ps(scale[0], x_scale), *acc);
                    *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), _mm256_mul_ps(scale[1], x_scale), *acc);
                } else {
                    let dot = dot4::<L>(&q, 4, x, low);
                    *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale[0], x_scale), *acc);
                }
                if A::HAS_MIN {
                    let sum = _mm256_set1_ps(terms.cast::<f32>().add(row).read_unaligned());
                    *acc = _mm256_fmadd_ps(min, sum, *acc);
                }
            }
            record = record.add(record_bytes);
            levels = levels.add(L::BLOCK_BYTES);
        }
    }
    // SAFETY: `Tile` has room for `rows` rows of `cols` columns, and a bias for the columns.
    unsafe { store(tile, half, first, &acc) }
    N
}

/// `start + ` the dot products of quads `from..from + 4` with the activations at `x`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot4<L: Levels>(q: &[__m256i; 8], from: usize, x: *const i32, start: __m256i) -> __m256i {
    let mut dot = start;
    let mut sum = _mm256_setzero_si256();
    for j in 0..4 {
        // SAFETY: the caller's `x` has 8 quads.
        let x = _mm256_set1_epi32(unsafe { x.add(from + j).read_unaligned() });
        let q = q[from + j];
        let products = if L::SIGNED {
            _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q))
        } else {
            _mm256_maddubs_epi16(q, x)
        };
        sum = _mm256_add_epi16(sum, products);
        if (j + 1) % L::QUADS_A_SUM == 0 {
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
            sum = _mm256_setzero_si256();
        }
    }
    dot
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const N: usize>(tile: &Tile, half: usize, first: usize, acc: &[__m256; N]) {
    let cols = (tile.cols - 8 * half).min(8);
    // SAFETY: `Tile` promises `cols` columns of bias and of `rows` rows of output; the mask leaves the rest alone.
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(cols as i32), index);
        for (r, acc) in acc.iter().enumerate() {
            let y = if tile.bias.is_null() {
                *acc
            } else {
                _mm256_add_ps(*acc, _mm256_maskload_ps(tile.bias.add(8 * half), mask))
            };
            let out = tile.out.add((first + r) * tile.out_stride + 8 * half);
            _mm256_maskstore_ps(out, mask, y);
        }
    }
}

struct Bits4;
struct Bits5;
struct Bits6;
struct Bits8;

/// The half-vector of 8 rows at vector `v`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(levels: *const u8, v: usize, half: usize) -> __m256i {
    // SAFETY: the caller's block has more than `v` vectors of 64 bytes.
    unsafe { _mm256_loadu_si256(levels.add(64 * v + 32 * half).cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(levels: *const u8, half: usize) -> [__m256i; 8] {
    let low = _mm256_set1_epi8(15);
    let mut q = [_mm256_setzero_si256(); 8];
    for v in 0..4 {
        // SAFETY: a block of levels begins with 4 vectors of nibbles.
        let pair = unsafe { load(levels, v, half) };
        q[v] = _mm256_and_si256(pair, low);
        q[4 + v] = _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low);
    }
    q
}

impl Levels for Bits4 {
    const BLOCK_BYTES: usize = Quants::Bits4.block_bytes();
    const QUADS_A_SUM: usize = 4;
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(levels: *const u8, half: usize) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        unsafe { nibbles(levels, half) }
    }
}

impl Levels for Bits5 {
    const BLOCK_BYTES: usize = Quants::Bits5.block_bytes();
    const QUADS_A_SUM: usize = 4;
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(levels: *const u8, half: usize) -> [__m256i; 8] {
        // SAFETY: the caller's promise: 8 words of 64 bits follow the nibbles, 32 of them for 8 rows.
        let (mut q, words) = unsafe { (nibbles(levels, half), levels.add(256).cast::<u32>()) };
        // Byte i of each 16-byte lane takes the byte of the word with its bit, then tests the bit.
        let spread = _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
        );
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        for (v, q) in q.iter_mut().enumerate() {
            // SAFETY: 2 * v + half < 16.
            let word = _mm256_set1_epi32(unsafe { words.add(2 * v + half).read_unaligned() } as i32);
            let set = _mm256_and_si256(_mm256_shuffle_epi8(word, spread), bits);
            let high = _mm256_and_si256(_mm256_cmpeq_epi8(set, bits), _mm256_set1_epi8(16));
            *q = _mm256_or_si256(*q, high);
        }
        q
    }
}

impl Levels for Bits6 {
    const BLOCK_BYTES: usize = Quants::Bits6.block_bytes();
    const QUADS_A_SUM: usize = 2;
    const SIGNED: bool = false;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(levels: *const u8, half: usize) -> [__m256i; 8] {
        // SAFETY: the caller's promise.
        let mut q = unsafe { nibbles(levels, half) };
        let pair = _mm256_set1_epi8(0x30);
        for v in 0..2 {
            // SAFETY: 2 vectors follow the 4 of nibbles.
            let high = unsafe { load(levels, 4 + v, half) };
            let shifted = [
                _mm256_slli_epi16::<4>(high),
                _mm256_slli_epi16::<2>(high),
                high,
                _mm256_srli_epi16::<2>(high),
            ];
            for (s, high) in shifted.into_iter().enumerate() {
                q[4 * v + s] = _mm256_or_si256(q[4 * v + s], _mm256_and_si256(high, pair));
            }
        }
        q
    }
}

impl Levels for Bits8 {
    const BLOCK_BYTES: usize = Quants::Bits8.block_bytes();
    const QUADS_A_SUM: usize = 1;
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn quads(levels: *const u8, half: usize) -> [__m256i; 8] {
        let mut q = [_mm256_setzero_si256(); 8];
        for (v, q) in q.iter_mut().enumerate() {
            // SAFETY: the caller's promise: 8 vectors.
            let levels = unsafe { load(levels, v, half) };
            *q = _mm256_xor_si256(levels, _mm256_set1_epi8(-128));
        }
        q
    }
}

struct Block;
struct BlockMin;
struct SuperMin;
struct SuperHalves;
/// A scale for N blocks.
struct Group<const N: usize>;

/// 8 f16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn f16x8(at: *const u8) -> __m256 {
    // SAFETY: the caller's `at` has 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

/// 8 unsigned bytes as f32.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn u8x8(at: *const u8) -> __m256 {
    // SAFETY: the caller's `at` has 8 bytes.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

/// 8 signed bytes as f32.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn i8x8(at: *const u8) -> __m256 {
    // SAFETY: the caller's `at` has 8 bytes.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(at.cast()) }))
}

impl Affine for Block {
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the caller's promise.
        let scale = unsafe { f16x8(scales.add(32 * block + 16 * half)) };
        ([scale; 2], _mm256_setzero_ps())
    }
}

impl Affine for BlockMin {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(64 * block + 16 * half);
            ([f16x8(start); 2], f16x8(start.add(32)))
        }
    }
}

impl Affine for SuperMin {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / 8 * 320);
            let units = start.add(64 + block % 8 * 32 + 8 * half);
            let d = start.add(16 * half);
            let scale = _mm256_mul_ps(f16x8(d), u8x8(units));
            ([scale; 2], _mm256_mul_ps(f16x8(d.add(32)), u8x8(units.add(16))))
        }
    }
}

impl Affine for SuperHalves {
    const HAS_MIN: bool = false;
    const HALVES: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / 8 * 288);
            let units = start.add(32 + block % 8 * 32 + 8 * half);
            let d = f16x8(start.add(16 * half));
            let low = _mm256_mul_ps(d, i8x8(units));
            ([low, _mm256_mul_ps(d, i8x8(units.add(16)))], _mm256_setzero_ps())
        }
    }
}

impl<const N: usize> Affine for Group<N> {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn at(scales: *const u8, block: usize, half: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / N * GROUP_SCALES_BYTES);
            let scale = f16x8(start.add(16 * half));
            ([scale; 2], _mm256_mul_ps(scale, i8x8(start.add(32 + 8 * half))))
        }
    }
}
