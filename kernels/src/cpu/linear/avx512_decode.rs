//! Levels and scales of a packed block in AVX-512 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::packed::{GROUP_SCALES_BYTES, Quants, Scales};

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

/// Levels of a block.
pub(super) trait Levels {
    const BLOCK_BYTES: usize;
    /// Whether a block is its 8 quads as they are.
    const ARE_QUADS: bool = false;

    /// The 8 quads.
    ///
    /// # Safety
    /// `levels` points to a block of this kind.
    unsafe fn quads(levels: *const u8) -> [__m512i; 8];
}

/// Scales of a block.
pub(super) trait Affine {
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

pub(super) struct Bits4;
pub(super) struct Bits5;
pub(super) struct Bits6;
pub(super) struct Bits8;

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
    const ARE_QUADS: bool = true;

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

pub(super) struct Block;
pub(super) struct BlockMin;
pub(super) struct SuperMin;
pub(super) struct SuperHalves;
/// A scale for N blocks.
pub(super) struct Group<const N: usize>;

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

impl<const N: usize> Affine for Group<N> {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;
    const BLOCK_BYTES: usize = GROUP_SCALES_BYTES / N;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn at(scales: *const u8, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let start = scales.add(block / N * GROUP_SCALES_BYTES);
            let scale = f16x16(start);
            ([scale; 2], _mm512_mul_ps(scale, i8x16(start.add(32))))
        }
    }
}
