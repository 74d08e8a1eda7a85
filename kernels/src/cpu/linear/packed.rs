//! Packed quantized matrices: 16 rows interleaved, so that one vector of 32-bit lanes holds a lane a row.
//!
//! Rows come in groups of 16, columns in blocks of 32. A group is one run of bytes:
//!
//! ```text
//! quants  block 0, block 1, ...   Quants::block_bytes each, a multiple of 64
//! scales  block 0, block 1, ...   see Scales
//! ```
//!
//! A *quad* is 4 consecutive columns of all 16 rows as unsigned levels: byte `4 * row + column`. A block has
//! 8 quads. Multiplying a quad with 4 activations broadcast to all lanes (`vpdpbusd`) adds to the dot products
//! of 16 rows at once, without any horizontal sum.
//!
//! The last group is padded with rows whose levels and scales are 0. The bytes are as many as the checkpoint's
//! (Q4_K 1.03 and Q5_K 1.02 times: their 6-bit scales are stored as bytes).

use crate::{
    cpu::arena::{Arena, ArenaBytes},
    tensor::{SharedBytes, WeightFormat},
};

/// Rows a group.
pub(super) const GROUP: usize = 16;
/// Columns a block.
pub(super) const BLOCK: usize = 32;

/// Bytes of the scales of a [`Scales::Group`].
pub(super) const GROUP_SCALES_BYTES: usize = 48;

/// How levels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quants {
    /// 4 vectors; quad j in the low halves of vector j, quad 4 + j in the high halves.
    Bits4,
    /// As `Bits4`, then 8 words of 64 bits: bit `4 * row + column` of word j is the fifth bit of quad j.
    Bits5,
    /// As `Bits4`, then 2 vectors: bits 2s and 2s + 1 of vector v are the high bits of quad 4v + s.
    Bits6,
    /// 8 vectors, a quad each.
    Bits8,
}

impl Quants {
    pub(super) const fn block_bytes(self) -> usize {
        match self {
            Self::Bits4 => 256,
            Self::Bits5 => 256 + 64,
            Self::Bits6 => 256 + 128,
            Self::Bits8 => 512,
        }
    }
}

/// How levels become values: `scale * (level - zero) + min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// 16 f16 scales a block.
    Block,
    /// 16 f16 scales, then 16 f16 minimums a block.
    BlockMin,
    /// A super-block of 8 blocks: 16 f16 `d`, 16 f16 `-dmin`; then a block: 16 u8 scales, 16 u8 minimums, in
    /// units of those.
    SuperMin,
    /// A super-block of 8 blocks: 16 f16 `d`; then a block: 16 i8 scales of its first 16 columns, in units of
    /// `d`, and 16 of its last 16.
    SuperHalves,
    /// For each 1, 2 or 4 blocks: 16 f16 scales, then 16 i8 minimums in units of those (zero levels, negated).
    Group(usize),
}

impl Scales {
    /// Bytes of the scales of `blocks` blocks of a group.
    pub(super) const fn bytes(self, blocks: usize) -> usize {
        match self {
            Self::Block => 32 * blocks,
            Self::BlockMin => 64 * blocks,
            Self::SuperMin => (64 + 8 * 32) * (blocks / 8),
            Self::SuperHalves => (32 + 8 * 32) * (blocks / 8),
            Self::Group(of) => GROUP_SCALES_BYTES * (blocks / of),
        }
    }
}

/// The packed counterpart of a checkpoint's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedFormat {
    pub(super) quants: Quants,
    pub(super) scales: Scales,
    /// Level that stands for 0; 0 where there are minimums.
    pub(super) zero: u8,
}

impl PackedFormat {
    /// How `format` is packed; `None` for a format that is used in place.
    pub(super) const fn of(format: WeightFormat) -> Option<Self> {
        let (quants, scales, zero) = match format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => return None,
            WeightFormat::Q4_0 => (Quants::Bits4, Scales::Block, 8),
            WeightFormat::Q4_1 => (Quants::Bits4, Scales::BlockMin, 0),
            WeightFormat::Q5_0 => (Quants::Bits5, Scales::Block, 16),
            WeightFormat::Q5_1 => (Quants::Bits5, Scales::BlockMin, 0),
            WeightFormat::Q8_0 => (Quants::Bits8, Scales::Block, 128),
            WeightFormat::Q4K => (Quants::Bits4, Scales::SuperMin, 0),
            WeightFormat::Q5K => (Quants::Bits5, Scales::SuperMin, 0),
            WeightFormat::Q6K => (Quants::Bits6, Scales::SuperHalves, 32),
            WeightFormat::Int4G32 => (Quants::Bits4, Scales::Group(1), 0),
            WeightFormat::Int4G64 => (Quants::Bits4, Scales::Group(2), 0),
            WeightFormat::Int4G128 => (Quants::Bits4, Scales::Group(4), 0),
        };
        Some(Self { quants, scales, zero })
    }
}

/// A packed matrix `(rows, cols)`.
#[derive(Debug)]
pub(super) struct PackedMatrix {
    pub(super) format: PackedFormat,
    pub(super) rows: usize,
    pub(super) cols: usize,
    bytes: ArenaBytes,
}

impl PackedMatrix {
    /// A matrix of zeros, or `None` if there is no memory for it. `cols` is a multiple of the blocks of
    /// the checkpoint's format.
    pub(super) fn zeroed(arena: &Arena, format: PackedFormat, rows: usize, cols: usize) -> Option<Self> {
        let groups = rows.div_ceil(GROUP);
        let bytes = arena.alloc(groups.checked_mul(group_bytes(format, cols))?)?;
        Some(Self {
            format,
            rows,
            cols,
            bytes,
        })
    }

    /// Groups of 16 rows.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// Blocks of 32 columns.
    pub(super) fn blocks(&self) -> usize {
        self.cols / BLOCK
    }

    /// Bytes allocated.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of one group.
    pub(super) fn group_bytes(&self) -> usize {
        group_bytes(self.format, self.cols)
    }

    /// Bytes of the levels at the front of a group.
    pub(super) fn quants_bytes(&self) -> usize {
        self.blocks() * self.format.quants.block_bytes()
    }

    /// Levels and scales of a group.
    pub(super) fn group(&self, group: usize) -> (&[u8], &[u8]) {
        let len = self.group_bytes();
        self.bytes[group * len..(group + 1) * len].split_at(self.quants_bytes())
    }

    /// All groups, for packing.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Row `row` as f32: the bits that the checkpoint's blocks dequantize to.
    pub(super) fn row_into(&self, row: usize, out: &mut [f32]) {
        let (quants, scales) = self.group(row / GROUP);
        let row = row % GROUP;
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let level_bytes = self.format.quants.block_bytes();
            let levels = &quants[block * level_bytes..][..level_bytes];
            for (half, out) in out.chunks_exact_mut(BLOCK / 2).enumerate() {
                let affine = affine_at(self.format.scales, scales, block, half, row);
                for (column, out) in out.iter_mut().enumerate() {
                    let level = level_at(self.format.quants, levels, row, 16 * half + column);
                    *out = affine.scale * (f32::from(level) - f32::from(self.format.zero)) + affine.min;
                }
            }
        }
    }
}

/// Scale and minimum of some levels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Scale and minimum of `row` in half `half` of `block`; only [`Scales::SuperHalves`] tells the halves apart.
pub(super) fn affine_at(kind: Scales, scales: &[u8], block: usize, half: usize, row: usize) -> Affine {
    let f16 = |at: usize| half::f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
    let (super_block, sub) = (block / 8, block % 8);
    match kind {
        Scales::Block => Affine {
            scale: f16(32 * block + 2 * row),
            min: 0.0,
        },
        Scales::BlockMin => Affine {
            scale: f16(64 * block + 2 * row),
            min: f16(64 * block + 32 + 2 * row),
        },
        Scales::SuperMin => {
            let start = super_block * 320;
            let units = start + 64 + 32 * sub + row;
            Affine {
                scale: f16(start + 2 * row) * f32::from(scales[units]),
                min: f16(start + 32 + 2 * row) * f32::from(scales[units + 16]),
            }
        }
        Scales::SuperHalves => {
            let start = super_block * 288;
            let units = scales[start + 32 + 32 * sub + 16 * half + row] as i8;
            Affine {
                scale: f16(start + 2 * row) * f32::from(units),
                min: 0.0,
            }
        }
        Scales::Group(of) => {
            let start = block / of * GROUP_SCALES_BYTES;
            let scale = f16(start + 2 * row);
            let units = scales[start + 2 * GROUP + row] as i8;
            Affine {
                scale,
                min: scale * f32::from(units),
            }
        }
    }
}

/// The level of `row` and `column` (0..32) in the levels of a block.
pub(super) fn level_at(kind: Quants, levels: &[u8], row: usize, column: usize) -> u8 {
    let (quad, lane) = (column / 4, 4 * row + column % 4);
    let nibble = |levels: &[u8]| levels[64 * (quad % 4) + lane] >> (4 * (quad / 4)) & 15;
    match kind {
        Quants::Bits4 => nibble(levels),
        Quants::Bits5 => nibble(levels) | (levels[256 + 8 * quad + lane / 8] >> (lane % 8) & 1) << 4,
        Quants::Bits6 => nibble(levels) | (levels[256 + 64 * (quad / 4) + lane] >> (2 * (quad % 4)) & 3) << 4,
        Quants::Bits8 => levels[64 * quad + lane],
    }
}

fn group_bytes(format: PackedFormat, cols: usize) -> usize {
    let blocks = cols / BLOCK;
    (blocks * format.quants.block_bytes() + format.scales.bytes(blocks)).next_multiple_of(64)
}

/// A dense matrix, used where the checkpoint has it: row-major, little-endian.
#[derive(Debug)]
pub(super) struct DenseMatrix {
    pub(super) format: WeightFormat,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bytes: SharedBytes,
}
