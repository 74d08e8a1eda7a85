//! From a checkpoint's blocks to a [`PackedMatrix`].

use super::packed::{BLOCK, GROUP, GROUP_SCALES_BYTES, PackedFormat, PackedMatrix, Quants, Scales};
use crate::{
    cpu::{ThreadPool, arena::Arena, dequant},
    tensor::{HostTensor, WeightFormat},
};

/// Bytes that a task packs at least.
const TASK_BYTES: usize = 256 << 10;

/// Packs tensors of one checkpoint format into one matrix, each below the one before; `None` if there is no memory.
/// Their bytes fit their shapes, their columns are as many, and the rows of all but the last are full groups.
pub(super) fn pack(
    (pool, arena): (&ThreadPool, &Arena),
    tensors: &[HostTensor],
    format: PackedFormat,
) -> Option<PackedMatrix> {
    let (rows, cols) = (tensors.iter().map(|tensor| tensor.rows).sum(), tensors[0].cols);
    let mut matrix = PackedMatrix::zeroed(arena, format, rows, cols)?;
    let (group_bytes, quants_bytes) = (matrix.group_bytes(), matrix.quants_bytes());
    if group_bytes == 0 {
        return Some(matrix);
    }
    let row_bytes = tensors[0].bytes.len() / tensors[0].rows.max(1);
    let groups_a_task = TASK_BYTES.div_ceil(group_bytes);
    pool.run_chunks(matrix.bytes_mut(), groups_a_task * group_bytes, |task, groups| {
        for (index, group) in groups.chunks_exact_mut(group_bytes).enumerate() {
            let (tensor, first) = tensor_of(tensors, (task * groups_a_task + index) * GROUP);
            let src: &[u8] = &tensor.bytes;
            let (quants, scales) = group.split_at_mut(quants_bytes);
            for row in first..tensor.rows.min(first + GROUP) {
                let mut dst = PackedRow {
                    format,
                    row: row - first,
                    quants: &mut *quants,
                    scales: &mut *scales,
                };
                dst.pack(tensor.format, &src[row * row_bytes..(row + 1) * row_bytes]);
            }
        }
    });
    Some(matrix)
}

/// The tensor that row `row` of all of them is of, and which of its rows that is.
fn tensor_of(tensors: &[HostTensor], mut row: usize) -> (&HostTensor, usize) {
    let tensor = tensors.iter().find(|tensor| {
        let found = row < tensor.rows;
        if !found {
            row -= tensor.rows;
        }
        found
    });
    (tensor.expect("a row of the matrix"), row)
}

/// One row of a group, being filled.
struct PackedRow<'a> {
    format: PackedFormat,
    row: usize,
    quants: &'a mut [u8],
    scales: &'a mut [u8],
}

impl PackedRow<'_> {
    fn pack(&mut self, format: WeightFormat, src: &[u8]) {
        for (index, block) in src.chunks_exact(format.block_bytes()).enumerate() {
            match format {
                WeightFormat::Q4_0 => {
                    self.put_scale(index, 0, &block[..2]);
                    self.put_nibbles(index, &block[2..18]);
                }
                WeightFormat::Q4_1 => {
                    self.put_scale(index, 0, &block[..2]);
                    self.put_scale(index, 1, &block[2..4]);
                    self.put_nibbles(index, &block[4..20]);
                }
                WeightFormat::Q5_0 => {
                    self.put_scale(index, 0, &block[..2]);
                    self.put_fifth_bits(index, [block[2], block[3], block[4], block[5]]);
                    self.put_nibbles(index, &block[6..22]);
                }
                WeightFormat::Q5_1 => {
                    self.put_scale(index, 0, &block[..2]);
                    self.put_scale(index, 1, &block[2..4]);
                    self.put_fifth_bits(index, [block[4], block[5], block[6], block[7]]);
                    self.put_nibbles(index, &block[8..24]);
                }
                WeightFormat::Q8_0 => {
                    self.put_scale(index, 0, &block[..2]);
                    self.put_bytes(index, &block[2..34]);
                }
                WeightFormat::Q4K | WeightFormat::Q5K => self.put_k45(format, index, block),
                WeightFormat::Q6K => self.put_k6(index, block),
                WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => {
                    self.put_int4(index, block);
                }
                WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => {
                    unreachable!("dense formats are not packed")
                }
            }
        }
    }

    /// The f16 scale (`which` 0) or minimum (1) of a block.
    fn put_scale(&mut self, block: usize, which: usize, bytes: &[u8]) {
        let stride = if self.format.scales == Scales::Block {
            32
        } else {
            64
        };
        let at = stride * block + 32 * which + 2 * self.row;
        self.scales[at..at + 2].copy_from_slice(bytes);
    }

    /// 16 bytes of nibbles, columns j and 16 + j in byte j: the pairing that [`Quants::Bits4`] has.
    fn put_nibbles(&mut self, block: usize, bytes: &[u8]) {
        let (levels, lane) = self.levels(block);
        for (quad, bytes) in bytes.chunks_exact(4).enumerate() {
            levels[64 * quad + lane..][..4].copy_from_slice(bytes);
        }
    }

    /// Fifth bits, column j in bit j.
    fn put_fifth_bits(&mut self, block: usize, bits: [u8; 4]) {
        let row = self.row;
        let (levels, _) = self.levels(block);
        for quad in 0..8 {
            let four = bits[quad / 2] >> (4 * (quad % 2)) & 15;
            levels[256 + 8 * quad + row / 2] |= four << (4 * (row % 2));
        }
    }

    /// 32 signed bytes.
    fn put_bytes(&mut self, block: usize, bytes: &[u8]) {
        let (levels, lane) = self.levels(block);
        for (quad, bytes) in bytes.chunks_exact(4).enumerate() {
            for (dst, src) in levels[64 * quad + lane..][..4].iter_mut().zip(bytes) {
                *dst = src ^ 0x80;
            }
        }
    }

    /// A super-block of Q4_K or Q5_K.
    fn put_k45(&mut self, format: WeightFormat, super_block: usize, src: &[u8]) {
        let row = self.row;
        let scales = &mut self.scales[super_block * 320..][..320];
        scales[2 * row..2 * row + 2].copy_from_slice(&src[..2]);
        scales[32 + 2 * row] = src[2];
        // `- dmin * min` becomes `+ (-dmin) * min`.
        scales[33 + 2 * row] = src[3] ^ 0x80;
        for sub in 0..8 {
            let (scale, min) = dequant::scale_min_k4(&src[4..16], sub);
            scales[64 + 32 * sub + row] = scale;
            scales[80 + 32 * sub + row] = min;
        }
        let nibbles = if format == WeightFormat::Q4K { 16 } else { 48 };
        for sub in 0..8 {
            let bytes = &src[nibbles + sub / 2 * 32..][..32];
            let level = |j: usize| bytes[j] >> (4 * (sub % 2)) & 15;
            let paired: [u8; 16] = std::array::from_fn(|j| level(j) | level(j + 16) << 4);
            self.put_nibbles(8 * super_block + sub, &paired);
            if format == WeightFormat::Q5K {
                let bit = |j: usize| u32::from(src[16 + j] >> sub & 1) << j;
                let bits: u32 = (0..BLOCK).map(bit).sum();
                self.put_fifth_bits(8 * super_block + sub, bits.to_le_bytes());
            }
        }
    }

    /// A super-block of Q6_K.
    fn put_k6(&mut self, super_block: usize, src: &[u8]) {
        let row = self.row;
        let scales = &mut self.scales[super_block * 288..][..288];
        scales[2 * row..2 * row + 2].copy_from_slice(&src[208..210]);
        for half in 0..16 {
            scales[32 + 16 * half + row] = src[192 + half];
        }
        for sub in 0..8 {
            let level = |j: usize| dequant::q6_k_at(src, BLOCK * sub + j);
            let paired: [u8; 16] = std::array::from_fn(|j| level(j) & 15 | (level(j + 16) & 15) << 4);
            self.put_nibbles(8 * super_block + sub, &paired);
            let (levels, lane) = self.levels(8 * super_block + sub);
            for j in 0..BLOCK {
                let quad = j / 4;
                let pair = (level(j) >> 4) << (2 * (quad % 4));
                levels[256 + 64 * (quad / 4) + lane + j % 4] |= pair;
            }
        }
    }

    /// A group of 32, 64 or 128 columns with one scale and one zero level.
    fn put_int4(&mut self, group: usize, src: &[u8]) {
        let row = self.row;
        let scales = &mut self.scales[group * GROUP_SCALES_BYTES..][..GROUP_SCALES_BYTES];
        scales[2 * row..2 * row + 2].copy_from_slice(&src[..2]);
        scales[2 * GROUP + row] = src[2].wrapping_neg();
        let blocks = src[4..].chunks_exact(BLOCK / 2);
        let first = group * blocks.len();
        for (block, bytes) in blocks.enumerate() {
            let level = |j: usize| bytes[j / 2] >> (4 * (j % 2)) & 15;
            let paired: [u8; 16] = std::array::from_fn(|j| level(j) | level(j + 16) << 4);
            self.put_nibbles(first + block, &paired);
        }
    }

    /// The levels of a block, and the byte at which this row begins in each quad.
    fn levels(&mut self, block: usize) -> (&mut [u8], usize) {
        let len = Quants::block_bytes(self.format.quants);
        (&mut self.quants[block * len..][..len], 4 * self.row)
    }
}
