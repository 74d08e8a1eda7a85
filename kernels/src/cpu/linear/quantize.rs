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
            Scales::BlockMin | Scales::SuperMin => Self::ScaledSum,
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
}

impl Tiling {
    /// Tiles: all of them full but for the last.
    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
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
        self.rows * self.row_bytes()
    }

    /// Bytes of a record of a tile of one row; `n` rows take `n` times as many.
    pub(super) fn record_bytes(&self) -> usize {
        BLOCK + 4 + self.terms.bytes()
    }

    fn row_bytes(&self) -> usize {
        self.blocks * self.record_bytes()
    }
}

/// Rounds the rows of `tile` (of `x`, `(rows, 32 * blocks)`) into `out`, the bytes of that tile.
pub(super) fn quantize_tile(isa: Isa, tiling: &Tiling, tile: usize, x: &[f32], out: &mut [u8]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a backend has an `Isa` only if the processor does.
        Isa::Avx512 => unsafe { quantize_tile_avx512(tiling, tile, x, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { quantize_tile_avx2(tiling, tile, x, out) },
        _ => quantize_tile_with(tiling, tile, x, out),
    }
}

// The same code, left to the compiler to vectorise: rounding 32 values takes a few dozen instructions, against
// thousands for the products with them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_tile_avx512(tiling: &Tiling, tile: usize, x: &[f32], out: &mut [u8]) {
    quantize_tile_with(tiling, tile, x, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn quantize_tile_avx2(tiling: &Tiling, tile: usize, x: &[f32], out: &mut [u8]) {
    quantize_tile_with(tiling, tile, x, out);
}

#[inline(always)]
fn quantize_tile_with(tiling: &Tiling, tile: usize, x: &[f32], out: &mut [u8]) {
    let n = tiling.rows_of(tile);
    let k = tiling.blocks * BLOCK;
    for row in 0..n {
        let x = &x[(tile * TILE + row) * k..][..k];
        let records = out.chunks_exact_mut(n * tiling.record_bytes());
        for (x, record) in x.as_chunks::<BLOCK>().0.iter().zip(records) {
            let (levels, rest) = record.split_at_mut(n * BLOCK);
            let (scales, terms) = rest.split_at_mut(n * 4);
            let levels = levels[row * BLOCK..].first_chunk_mut().expect("n rows of levels");
            let (scale, sums) = quantize_block(x, levels);
            put(scales, row, scale.to_le_bytes());
            let total = sums[0] + sums[1];
            match tiling.terms {
                Terms::ScaledSum => put(terms, row, (scale * total as f32).to_le_bytes()),
                Terms::Zero(zero) => put(terms, row, (-i32::from(zero) * total).to_le_bytes()),
                Terms::ZeroHalves(zero) => {
                    put(terms, row, (-i32::from(zero) * sums[0]).to_le_bytes());
                    put(terms, n + row, (-i32::from(zero) * sums[1]).to_le_bytes());
                }
            }
        }
    }
}

/// Rounds to nearest, ties to even; returns the scale and the sum of each half's levels. A block that holds a
/// NaN or an infinity gets a scale that is none either, so that it shows in the product.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], levels: &mut [u8; BLOCK]) -> (f32, [i32; 2]) {
    // Compared as integers: NaN > infinity > every number.
    let largest = x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let (scale, inverse) = if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    };
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

/// A block of smaller values is rounded to zeros; 127 over a value much below it would overflow.
const SMALLEST: f32 = 1e-30;

fn put(bytes: &mut [u8], index: usize, value: [u8; 4]) {
    bytes[4 * index..4 * index + 4].copy_from_slice(&value);
}
