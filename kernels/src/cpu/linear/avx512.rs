//! Tile kernels for AVX-512 with VNNI.
#![allow(unsafe_code)]

use std::arch::{asm, x86_64::*};

use super::{
    packed::{PackedFormat, Quants, Scales},
    tile::{Tile, TileKernel, dispatch_format},
};

/// The kernel of a format.
pub(super) fn kernel(format: PackedFormat) -> TileKernel {
    dispatch_format!(format, any_rows)
}

/// Levels of a block.
trait Levels {
    const BLOCK_BYTES: usize;

    /// The 8 quads.
    ///
    /// # Safety
    /// `levels` points to a block of this kind.
    unsafe fn quads(levels: *const u8) -> [__m512i; 8];
}

/// Scales of a block.
trait Affine {
    const HAS_MIN: bool;
    const HALVES: bool;
    /// Bytes a block, on average.
    const BLOCK_BYTES: usize;

    /// Scales of both halves of the block (equal unless `HALVES`), and minimums (0 unless `HAS_MIN`).
    ///
    /// # Safety
    /// `scales` points to the scales of a group with more than `block` blocks.
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512);
}

/// Fetches what will be read [`PREFETCH_BYTES`] later: the processor's own prefetcher stays within a page of
/// 4 KiB, and the rows of a decode step wait for nothing but memory. Fetching past the end does no harm.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(at: *const u8, len: usize) {
    for line in (0..len).step_by(64) {
        let at = at.wrapping_add(PREFETCH_BYTES + line);
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}

/// Calls `$body` with `$r` = 0, 1, ... below `$n`, unrolled so that arrays indexed by it stay in registers.
macro_rules! unroll {
    ($n:expr, |$r:ident| $body:block) => {
        unroll!(@ $n, $r, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $n:expr, $r:ident, $body:block, $($i:literal)*) => {
        $(if $i < $n {
            let $r: usize = $i;
            $body
        })*
    };
}

pub(super) use unroll;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn any_rows<L: Levels, A: Affine>(tile: &Tile) {
    let mut first = 0;
    while first < tile.rows {
        // SAFETY: the caller's promise; `first + N <= tile.rows`.
        first += unsafe {
            match tile.rows - first {
                1 => rows::<L, A, 1>(tile, first),
                2 => rows::<L, A, 2>(tile, first),
                3 => rows::<L, A, 3>(tile, first),
                4..6 => rows::<L, A, 4>(tile, first),
                6..8 => rows::<L, A, 6>(tile, first),
                8..12 => rows::<L, A, 8>(tile, first),
                12..16 => rows::<L, A, 12>(tile, first),
                _ => rows::<L, A, 16>(tile, first),
            }
        };
    }
}

/// Rows `first..first + N` of a tile; returns N. N accumulators and the 8 quads of a block fill the 32 registers at N = 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rows<L: Levels, A: Affine, const N: usize>(tile: &Tile, first: usize) -> usize {
    let n = tile.rows;
    let record_bytes = n * if A::HALVES { 44 } else { 40 };
    let mut record = tile.x;
    let mut levels = tile.quants;
    let mut acc = [_mm512_setzero_ps(); N];
    for block in 0..tile.blocks {
        // SAFETY: `Tile` has `blocks` blocks of levels and scales, and as many records of `n` rows.
        unsafe {
            let q = L::quads(levels);
            let (scale, min) = A::at(tile.scales, block);
            let x = record.add(32 * first);
            let x_scale = record.add(32 * n + 4 * first).cast::<f32>();
            let terms = record.add(36 * n + 4 * first);
            prefetch(levels, L::BLOCK_BYTES);
            prefetch(tile.scales.wrapping_add(block * A::BLOCK_BYTES), 64);
            unroll!(N, |r| {
                let x = x.add(32 * r).cast::<i32>();
                let x_scale = _mm512_set1_ps(x_scale.add(r).read_unaligned());
                if A::HALVES {
                    let terms = terms.cast::<i32>();
                    let low = dot4(&q, 0, x, _mm512_set1_epi32(terms.add(r).read_unaligned()));
                    let high = dot4(&q, 4, x, _mm512_set1_epi32(terms.add(n + r).read_unaligned()));
                    acc[r] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(scale[0], x_scale), acc[r]);
                    acc[r] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(scale[1], x_scale), acc[r]);
                } else {
                    let start = if A::HAS_MIN {
                        _mm512_setzero_si512()
                    } else {
                        _mm512_set1_epi32(terms.cast::<i32>().add(r).read_unaligned())
                    };
                    let dot = dot4(&q, 4, x, dot4(&q, 0, x, start));
                    acc[r] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale[0], x_scale), acc[r]);
                }
                if A::HAS_MIN {
                    let sum = _mm512_set1_ps(terms.cast::<f32>().add(r).read_unaligned());
                    acc[r] = _mm512_fmadd_ps(min, sum, acc[r]);
                }
            });
            record = record.add(record_bytes);
            levels = levels.add(L::BLOCK_BYTES);
        }
    }
    // SAFETY: `Tile` has room for `rows` rows of `cols` columns, and a bias for the columns.
    unsafe { store(tile, first, &acc) }
    N
}

/// `start + ` the dot products of quads `from..from + 4` with the activations at `x`.
///
/// In assembly because the compiler, left to order 16 rows of these, interleaves them all and runs out of
/// registers (a third slower).
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot4(q: &[__m512i; 8], from: usize, x: *const i32, start: __m512i) -> __m512i {
    let mut dot = start;
    // SAFETY: reads the 16 bytes of 4 quads; the caller's `x` has 8.
    unsafe {
        asm!(
            "vpdpbusd {dot}, {q0}, dword ptr [{x}]{{1to16}}",
            "vpdpbusd {dot}, {q1}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {dot}, {q2}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpbusd {dot}, {q3}, dword ptr [{x} + 12]{{1to16}}",
            dot = inout(zmm_reg) dot,
            q0 = in(zmm_reg) q[from],
            q1 = in(zmm_reg) q[from + 1],
            q2 = in(zmm_reg) q[from + 2],
            q3 = in(zmm_reg) q[from + 3],
            x = in(reg) x.add(from),
            options(nostack, preserves_flags, readonly),
        );
    }
    dot
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(tile: &Tile, first: usize, acc: &[__m512; N]) {
    let cols = (u32::MAX >> (32 - tile.cols)) as u16;
    // SAFETY: `Tile` promises `cols` columns of bias and of `rows` rows of output; the mask leaves the rest alone.
    unsafe {
        let bias = if tile.bias.is_null() {
            None
        } else {
            Some(_mm512_maskz_loadu_ps(cols, tile.bias))
        };
        unroll!(N, |r| {
            let y = match bias {
                Some(bias) => _mm512_add_ps(acc[r], bias),
                None => acc[r],
            };
            _mm512_mask_storeu_ps(tile.out.add((first + r) * tile.out_stride), cols, y);
        });
    }
}

struct Bits4;
struct Bits5;
struct Bits6;
struct Bits8;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles(levels: *const u8) -> [__m512i; 8] {
    let low = _mm512_set1_epi8(15);
    let mut q = [_mm512_setzero_si512(); 8];
    unroll!(4, |v| {
        // SAFETY: a block of levels begins with 4 vectors of nibbles.
        let pair = unsafe { _mm512_loadu_si512(levels.add(64 * v).cast()) };
        q[v] = _mm512_and_si512(pair, low);
        q[4 + v] = _mm512_and_si512(_mm512_srli_epi16::<4>(pair), low);
    });
    q
}

impl Levels for Bits4 {
    const BLOCK_BYTES: usize = Quants::Bits4.block_bytes();

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn quads(levels: *const u8) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        unsafe { nibbles(levels) }
    }
}

impl Levels for Bits5 {
    const BLOCK_BYTES: usize = Quants::Bits5.block_bytes();

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn quads(levels: *const u8) -> [__m512i; 8] {
        // SAFETY: the caller's promise: 8 words follow the nibbles.
        let (mut q, words) = unsafe { (nibbles(levels), levels.add(256).cast::<u64>()) };
        let bit = _mm512_set1_epi8(16);
        unroll!(8, |v| {
            // SAFETY: v < 8.
            let mask = unsafe { words.add(v).read_unaligned() };
            q[v] = _mm512_mask_add_epi8(q[v], mask, q[v], bit);
        });
        q
    }
}

impl Levels for Bits6 {
    const BLOCK_BYTES: usize = Quants::Bits6.block_bytes();

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn quads(levels: *const u8) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        let mut q = unsafe { nibbles(levels) };
        let pair = _mm512_set1_epi8(0x30);
        unroll!(2, |v| {
            // SAFETY: 2 vectors follow the nibbles.
            let high = unsafe { _mm512_loadu_si512(levels.add(256 + 64 * v).cast()) };
            // a | (b & c) is 0xf8 as a truth table.
            q[4 * v] = _mm512_ternarylogic_epi32::<0xf8>(q[4 * v], _mm512_slli_epi16::<4>(high), pair);
            q[4 * v + 1] =
                _mm512_ternarylogic_epi32::<0xf8>(q[4 * v + 1], _mm512_slli_epi16::<2>(high), pair);
            q[4 * v + 2] = _mm512_ternarylogic_epi32::<0xf8>(q[4 * v + 2], high, pair);
            q[4 * v + 3] =
                _mm512_ternarylogic_epi32::<0xf8>(q[4 * v + 3], _mm512_srli_epi16::<2>(high), pair);
        });
        q
    }
}

impl Levels for Bits8 {
    const BLOCK_BYTES: usize = Quants::Bits8.block_bytes();

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn quads(levels: *const u8) -> [__m512i; 8] {
        let mut q = [_mm512_setzero_si512(); 8];
        unroll!(8, |v| {
            // SAFETY: the caller's promise: 8 vectors.
            q[v] = unsafe { _mm512_loadu_si512(levels.add(64 * v).cast()) };
        });
        q
    }
}

struct Block;
struct BlockMin;
struct SuperMin;
struct SuperHalves;

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn f16x16(at: *const u8) -> __m512 {
    // SAFETY: the caller's `at` has 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// 16 unsigned bytes as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn u8x16(at: *const u8) -> __m512 {
    // SAFETY: the caller's `at` has 16 bytes.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(at.cast()) }))
}

/// 16 signed bytes as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn i8x16(at: *const u8) -> __m512 {
    // SAFETY: the caller's `at` has 16 bytes.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(at.cast()) }))
}

impl Affine for Block {
    const HAS_MIN: bool = false;
    const HALVES: bool = false;
    const BLOCK_BYTES: usize = Scales::Block.bytes(8) / 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: the caller's promise.
        let scale = unsafe { f16x16(scales.add(32 * block)) };
        ([scale; 2], _mm512_setzero_ps())
    }
}

impl Affine for BlockMin {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;
    const BLOCK_BYTES: usize = Scales::BlockMin.bytes(8) / 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = f16x16(scales.add(64 * block));
            ([scale; 2], f16x16(scales.add(64 * block + 32)))
        }
    }
}

impl Affine for SuperMin {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;
    const BLOCK_BYTES: usize = Scales::SuperMin.bytes(8) / 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / 8 * 320);
            let units = start.add(64 + block % 8 * 32);
            let scale = _mm512_mul_ps(f16x16(start), u8x16(units));
            let min = _mm512_mul_ps(f16x16(start.add(32)), u8x16(units.add(16)));
            ([scale; 2], min)
        }
    }
}

impl Affine for SuperHalves {
    const HAS_MIN: bool = false;
    const HALVES: bool = true;
    const BLOCK_BYTES: usize = Scales::SuperHalves.bytes(8) / 8;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / 8 * 288);
            let units = start.add(32 + block % 8 * 32);
            let d = f16x16(start);
            let low = _mm512_mul_ps(d, i8x16(units));
            ([low, _mm512_mul_ps(d, i8x16(units.add(16)))], _mm512_setzero_ps())
        }
    }
}

const PREFETCH_BYTES: usize = 4096;
