//! The tile kernel without intrinsics: what the others are compared with, bit by bit.
#![allow(unsafe_code)]

use super::{
    packed::{Affine, BLOCK, GROUP, Quants, Scales, affine_at},
    quantize::TILE,
    tile::Tile,
};

/// Computes a tile.
///
/// # Safety
/// As [`super::tile::TileKernel`].
pub(super) unsafe fn tile(tile: &Tile) {
    let (n, format) = (tile.rows, tile.format);
    let level_bytes = format.quants.block_bytes();
    let halves = format.scales == Scales::SuperHalves;
    let record_bytes = n * if halves { 44 } else { 40 };
    // SAFETY: `Tile` has `blocks` blocks of levels and records of `n` rows.
    let (quants, x) = unsafe {
        (
            std::slice::from_raw_parts(tile.quants, tile.blocks * level_bytes),
            std::slice::from_raw_parts(tile.x, tile.blocks * record_bytes),
        )
    };
    // SAFETY: scales follow the levels of the same group.
    let scales = unsafe { std::slice::from_raw_parts(tile.scales, format.scales.bytes(tile.blocks)) };
    let mut acc = [[0.0_f32; GROUP]; TILE];
    let blocks = quants.chunks_exact(level_bytes).zip(x.chunks_exact(record_bytes));
    for (block, (levels, record)) in blocks.enumerate() {
        let levels = quads(format.quants, levels);
        let affine: [_; 2 * GROUP] =
            std::array::from_fn(|i| affine_at(format.scales, scales, block, i / GROUP, i % GROUP));
        for (r, acc) in acc[..n].iter_mut().enumerate() {
            let x = &record[BLOCK * r..][..BLOCK];
            let x_scale = f32::from_bits(word(record, BLOCK * n / 4 + r));
            let term = |half: usize| word(record, (BLOCK + 4) * n / 4 + half * n + r);
            for (row, acc) in acc.iter_mut().enumerate() {
                let low = dot4(&levels[..4], row, &x[..16]);
                let high = dot4(&levels[4..], row, &x[16..]);
                let Affine { scale, min } = affine[row];
                if halves {
                    *acc = ((low + term(0) as i32) as f32).mul_add(scale * x_scale, *acc);
                    let scale = affine[GROUP + row].scale;
                    *acc = ((high + term(1) as i32) as f32).mul_add(scale * x_scale, *acc);
                } else if format.scales == Scales::Block {
                    *acc = ((low + high + term(0) as i32) as f32).mul_add(scale * x_scale, *acc);
                } else {
                    *acc = ((low + high) as f32).mul_add(scale * x_scale, *acc);
                    *acc = min.mul_add(f32::from_bits(term(0)), *acc);
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { store(tile, &acc) }
}

/// # Safety
/// `Tile` has room for `rows` rows of `cols` columns, and a bias for the columns or none.
unsafe fn store(tile: &Tile, acc: &[[f32; GROUP]; TILE]) {
    for (r, acc) in acc[..tile.rows].iter().enumerate() {
        for (col, acc) in acc[..tile.cols].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let y = if tile.bias.is_null() {
                    *acc
                } else {
                    acc + *tile.bias.add(col)
                };
                tile.out.add(r * tile.out_stride + col).write(y);
            }
        }
    }
}

/// The 8 quads of a block: byte `4 * row + column` of quad `column / 4`.
fn quads(kind: Quants, levels: &[u8]) -> [[u8; 64]; 8] {
    let mut q = [[0; 64]; 8];
    if kind == Quants::Bits8 {
        for (q, levels) in q.iter_mut().zip(levels.chunks_exact(64)) {
            q.copy_from_slice(levels);
        }
        return q;
    }
    let (low, high) = q.split_at_mut(4);
    for (v, pair) in levels[..256].chunks_exact(64).enumerate() {
        for lane in 0..64 {
            low[v][lane] = pair[lane] & 15;
            high[v][lane] = pair[lane] >> 4;
        }
    }
    let extra = &levels[256..];
    for (quad, q) in q.iter_mut().enumerate() {
        for (lane, level) in q.iter_mut().enumerate() {
            *level |= match kind {
                Quants::Bits5 => (extra[8 * quad + lane / 8] >> (lane % 8) & 1) << 4,
                Quants::Bits6 => (extra[64 * (quad / 4) + lane] >> (2 * (quad % 4)) & 3) << 4,
                Quants::Bits4 | Quants::Bits8 => 0,
            };
        }
    }
    q
}

fn dot4(quads: &[[u8; 64]], row: usize, x: &[u8]) -> i32 {
    let mut dot = 0;
    for (quad, x) in quads.iter().zip(x.chunks_exact(4)) {
        for (level, x) in quad[4 * row..4 * row + 4].iter().zip(x) {
            dot += i32::from(*level) * i32::from(*x as i8);
        }
    }
    dot
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let at = 4 * index;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
