//! Activations rounded to 8 bits, a scale for each 32 of a row.
//!
//! Rows are laid out in tiles, each a run of records, one a block of 32 columns; a record of a tile of `n`
//! rows is
//!
//! ```text
//! levels  n x 32 i8           x = scale * level, level in -127..=127
//! scales  n f32
//! terms   n f32 or i32, or 2n i32 (see Terms): what the kernel adds to the product besides
//! ```
//!
//! so that a kernel reads one stream from front to back.
//!
//! For the matrix unit ([`super::amx`]) a last tile of 8 rows or a few less is laid out in records of two blocks,
//! so that one product of 16 x 64 levels gives the sums of both. Rows that are missing are zeros:
//!
//! ```text
//! levels  8 x 64 i8           the first block: of each row 32, then 32 zeros
//!         8 x 64 i8           the second block: of each row 32 zeros, then 32
//! scales  8 f32, terms 8      of the first block
//! scales  8 f32, terms 8      of the second block
//! ```
#![allow(unsafe_code)]

use super::packed::{BLOCK, PackedFormat, Scales};
use crate::cpu::Isa;

/// Rows of a full tile.
pub(super) const TILE: usize = 16;

/// What a weight format needs to know of a block besides its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// `scale * sum(levels)`, which the weights' minimum multiplies: f32.
    ScaledSum,
    /// `-zero * sum(levels)`, which makes up for weights stored as unsigned levels: i32.
    Zero(u8),
    /// The same for each half of the block.
    ZeroHalves(u8),
}

impl Terms {
    pub(super) const fn of(format: PackedFormat) -> Self {
        match format.scales {
            Scales::Block => Self::Zero(format.zero),
            Scales::BlockMin | Scales::SuperMin | Scales::Group(_) => Self::ScaledSum,
            Scales::SuperHalves => Self::ZeroHalves(format.zero),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::ScaledSum | Self::Zero(_) => 4,
            Self::ZeroHalves(_) => 8,
        }
    }
}

/// How the rows of a product are cut into tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Rows of the product.
    pub(super) rows: usize,
    /// Blocks a row.
    pub(super) blocks: usize,
    /// What the records hold.
    pub(super) terms: Terms,
    /// Whether the instruction set wants pairs of blocks, and there are such.
    pub(super) pairs: bool,
}

/// Rows of a tile whose blocks lie in pairs.
pub(super) const PAIRED_ROWS: usize = 8;

/// Fewer rows are not worth the matrix unit, whose work is the same for all numbers of rows.
const FEWEST_PAIRED_ROWS: usize = 7;

/// Bytes of a record of a pair of blocks.
const PAIR_BYTES: usize = 2 * PAIRED_ROWS * (2 * BLOCK + 8);

impl Tiling {
    /// Tiles: all of them full but for the last.
    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Whether the blocks of tile `tile` lie in pairs.
    pub(super) fn is_paired(&self, tile: usize) -> bool {
        self.pairs && (FEWEST_PAIRED_ROWS..=PAIRED_ROWS).contains(&self.rows_of(tile))
    }

    /// Rows in tile `tile`.
    pub(super) fn rows_of(&self, tile: usize) -> usize {
        TILE.min(self.rows - tile * TILE)
    }

    /// First byte of tile `tile`.
    pub(super) fn start_of(&self, tile: usize) -> usize {
        tile * TILE * self.row_bytes()
    }

    /// Bytes of all tiles.
    pub(super) fn len_bytes(&self) -> usize {
        match self.tiles().checked_sub(1) {
            Some(last) if self.is_paired(last) => self.start_of(last) + self.blocks / 2 * PAIR_BYTES,
            _ => self.rows * self.row_bytes(),
        }
    }

    /// Bytes of a record of a tile of one row; `n` rows take `n` times as many.
    pub(super) fn record_bytes(&self) -> usize {
        BLOCK + 4 + self.terms.bytes()
    }

    /// Bytes that tile `tile` cannot be cut within, and the blocks in them.
    pub(super) fn unit_of(&self, tile: usize) -> (usize, usize) {
        if self.is_paired(tile) {
            (PAIR_BYTES, 2)
        } else {
            (self.rows_of(tile) * self.record_bytes(), 1)
        }
    }

    fn row_bytes(&self) -> usize {
        self.blocks * self.record_bytes()
    }
}

/// Rounds the rows of a tile (of `x`, `(rows, 32 * blocks)`), from block `first` of it on, into `out`, the records of as
/// many blocks as there is room for.
pub(super) fn quantize_tile(
    isa: Isa,
    tiling: &Tiling,
    (tile, first): (usize, usize),
    x: &[f32],
    out: &mut [u8],
) {
    let tile = (tile, first);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a backend has an `Isa` only if the processor does.
        Isa::Avx512 | Isa::Amx => unsafe { x86::quantize_tile_avx512(tiling, tile, x, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::quantize_tile_avx2(tiling, tile, x, out) },
        _ => quantize_tile_with(tiling, tile, x, out, quantize_block),
    }
}

/// As [`quantize_tile`], a block by `quantize`: it returns the scale and the sum of each half's levels.
#[inline(always)]
fn quantize_tile_with(
    tiling: &Tiling,
    (tile, first): (usize, usize),
    x: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; BLOCK], &mut [u8; BLOCK]) -> (f32, [i32; 2]),
) {
    if tiling.is_paired(tile) {
        return quantize_pairs_with(tiling, (tile, first), x, out, quantize);
    }
    let n = tiling.rows_of(tile);
    let k = tiling.blocks * BLOCK;
    for row in 0..n {
        let x = &x[(tile * TILE + row) * k..][first * BLOCK..k];
        let records = out.chunks_exact_mut(n * tiling.record_bytes());
        for (x, record) in x.as_chunks::<BLOCK>().0.iter().zip(records) {
            let (levels, rest) = record.split_at_mut(n * BLOCK);
            let (scales, terms) = rest.split_at_mut(n * 4);
            let levels = levels[row * BLOCK..].first_chunk_mut().expect("n rows of levels");
            let (scale, sums) = quantize(x, levels);
            put(scales, row, scale.to_le_bytes());
            // Wrapping: levels of a NaN may be any, and nobody minds which.
            let total = sums[0].wrapping_add(sums[1]);
            match tiling.terms {
                Terms::ScaledSum | Terms::Zero(_) => put(terms, row, term(tiling.terms, scale, total)),
                Terms::ZeroHalves(zero) => {
                    put(terms, row, correction(zero, sums[0]).to_le_bytes());
                    put(terms, n + row, correction(zero, sums[1]).to_le_bytes());
                }
            }
        }
    }
}

/// As [`quantize_tile_with`], of a tile whose blocks lie in pairs.
#[inline(always)]
fn quantize_pairs_with(
    tiling: &Tiling,
    (tile, first): (usize, usize),
    x: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; BLOCK], &mut [u8; BLOCK]) -> (f32, [i32; 2]),
) {
    let n = tiling.rows_of(tile);
    let k = tiling.blocks * BLOCK;
    for (pair, record) in out.chunks_exact_mut(PAIR_BYTES).enumerate() {
        let (levels, rest) = record.split_at_mut(2 * PAIRED_ROWS * 2 * BLOCK);
        let (levels, _) = levels.as_chunks_mut::<BLOCK>();
        let (rest, _) = rest.as_chunks_mut::<{ 8 * PAIRED_ROWS }>();
        for (half, rest) in rest.iter_mut().enumerate() {
            let (scales, terms) = rest.split_at_mut(4 * PAIRED_ROWS);
            for row in 0..PAIRED_ROWS {
                // A row of the matrix unit is two blocks of levels wide.
                let to = 2 * (PAIRED_ROWS * half + row);
                levels[to + 1 - half] = [0; BLOCK];
                let at = (tile * TILE + row) * k + (first + 2 * pair + half) * BLOCK;
                let x = x[at.min(x.len())..].first_chunk();
                let Some(x) = x.filter(|_| row < n) else {
                    levels[to + half] = [0; BLOCK];
                    put(scales, row, [0; 4]);
                    put(terms, row, [0; 4]);
                    continue;
                };
                let (scale, sums) = quantize(x, &mut levels[to + half]);
                let total = sums[0].wrapping_add(sums[1]);
                put(scales, row, scale.to_le_bytes());
                put(terms, row, term(tiling.terms, scale, total));
            }
        }
    }
}

/// What the kernel adds to the product of a whole block.
#[inline(always)]
fn term(terms: Terms, scale: f32, total: i32) -> [u8; 4] {
    match terms {
        Terms::ScaledSum => (scale * total as f32).to_le_bytes(),
        Terms::Zero(zero) | Terms::ZeroHalves(zero) => correction(zero, total).to_le_bytes(),
    }
}

fn quantize_block(x: &[f32; BLOCK], levels: &mut [u8; BLOCK]) -> (f32, [i32; 2]) {
    let largest = x.iter().fold(0, |max, v| max.max(v.to_bits() & ABS));
    let (scale, inverse) = scale_of(largest);
    let mut sums = [0; 2];
    for (half, sum) in sums.iter_mut().enumerate() {
        for j in BLOCK / 2 * half..BLOCK / 2 * (half + 1) {
            let level = (x[j] * inverse).round_ties_even() as i32;
            levels[j] = level as i8 as u8;
            *sum += level;
        }
    }
    (scale, sums)
}

/// The scale of a block, and what its values are multiplied with before they are rounded to the nearest level
/// (ties to even), given the bits of its largest magnitude: as integers, NaN > infinity > every number. A block
/// that holds a NaN or an infinity gets a scale that is none either, so that it shows in the product.
#[inline(always)]
fn scale_of(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// All bits but the sign.
const ABS: u32 = 0x7fff_ffff;

/// A block of smaller values is rounded to zeros; 127 over a value much below it would overflow.
const SMALLEST: f32 = 1e-30;

#[inline(always)]
fn correction(zero: u8, sum: i32) -> i32 {
    sum.wrapping_mul(-i32::from(zero))
}

#[inline(always)]
fn put(bytes: &mut [u8], index: usize, value: [u8; 4]) {
    bytes[4 * index..4 * index + 4].copy_from_slice(&value);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ABS, BLOCK, Tiling, quantize_tile_with, scale_of};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn quantize_tile_avx512(tiling: &Tiling, tile: (usize, usize), x: &[f32], out: &mut [u8]) {
        quantize_tile_with(tiling, tile, x, out, |x, levels| quantize_block_avx512(x, levels));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn quantize_block_avx512(x: &[f32; BLOCK], levels: &mut [u8; BLOCK]) -> (f32, [i32; 2]) {
        // SAFETY: 32 elements.
        let (low, high) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[16..].as_ptr())) };
        let abs = _mm512_set1_epi32(ABS as i32);
        let largest = _mm512_max_epu32(
            _mm512_and_si512(_mm512_castps_si512(low), abs),
            _mm512_and_si512(_mm512_castps_si512(high), abs),
        );
        let (scale, inverse) = scale_of(_mm512_reduce_max_epu32(largest));
        let inverse = _mm512_set1_ps(inverse);
        let low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        let high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        // SAFETY: 32 bytes.
        unsafe {
            let to = levels.as_mut_ptr();
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(to.add(16).cast(), _mm512_cvtepi32_epi8(high));
        }
        (
            scale,
            [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)],
        )
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn quantize_tile_avx2(tiling: &Tiling, tile: (usize, usize), x: &[f32], out: &mut [u8]) {
        quantize_tile_with(tiling, tile, x, out, |x, levels| quantize_block_avx2(x, levels));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn quantize_block_avx2(x: &[f32; BLOCK], levels: &mut [u8; BLOCK]) -> (f32, [i32; 2]) {
        // SAFETY: four times 8 elements.
        let x: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x[8 * i..].as_ptr()) });
        let abs = _mm256_set1_epi32(ABS as i32);
        let bits = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), abs));
        let largest = _mm256_max_epu32(
            _mm256_max_epu32(bits[0], bits[1]),
            _mm256_max_epu32(bits[2], bits[3]),
        );
        let largest = _mm_max_epu32(
            _mm256_castsi256_si128(largest),
            _mm256_extracti128_si256::<1>(largest),
        );
        let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0b01_00_11_10>(largest));
        let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0b10_11_00_01>(largest));
        let (scale, inverse) = scale_of(_mm_cvtsi128_si32(largest) as u32);
        let inverse = _mm256_set1_ps(inverse);
        let q = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
        // Packing works within halves of 128 bits; the permutation puts the fours in order again.
        let pairs = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(pairs.0, pairs.1), order);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(levels.as_mut_ptr().cast(), bytes) };
        let sum = |a, b| {
            let sum = _mm256_add_epi32(a, b);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum)))
        };
        (scale, [sum(q[0], q[1]), sum(q[2], q[3])])
    }
}
