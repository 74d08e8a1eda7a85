//! Tile kernels for AVX-512 with VNNI.
#![allow(unsafe_code)]

use std::arch::{asm, x86_64::*};

use super::{
    avx512_decode::{
        Affine, Bits4, Bits5, Bits6, Bits8, Block, BlockMin, Group, Levels, SuperHalves, SuperMin, unroll,
    },
    packed::{PackedFormat, Quants, Scales},
    tile::{Tile, TileKernel, dispatch_format},
};

/// The kernel of a format.
pub(super) fn kernel(format: PackedFormat) -> TileKernel {
    dispatch_format!(format, any_rows)
}

/// Fetches what will be read [`PREFETCH_BYTES`] later: the processor's own prefetcher stays within a page of
/// 4 KiB, and the rows of a decode step wait for nothing but memory. Fetching past the end does no harm.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch(at: *const u8, len: usize) {
    for line in (0..len).step_by(64) {
        let at = at.wrapping_add(PREFETCH_BYTES + line);
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}

/// All rows of a tile.
///
/// # Safety
/// As [`TileKernel`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn any_rows<L: Levels, A: Affine>(tile: &Tile) {
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
            prefetch(levels, L::BLOCK_BYTES);
            prefetch(tile.scales.wrapping_add(block * A::BLOCK_BYTES), 64);
            unroll!(N, |r| {
                let row = first + r;
                let x = Row {
                    levels: record.add(32 * row),
                    scale: record.add(32 * n + 4 * row),
                    term: record.add(36 * n + 4 * row),
                };
                acc[r] = if A::HAS_MIN {
                    add_with_min(acc[r], &q, scale[0], min, x)
                } else if A::HALVES {
                    let high = Row {
                        levels: x.levels.add(16),
                        term: x.term.add(4 * n),
                        ..x
                    };
                    let acc = add_half(acc[r], [q[0], q[1], q[2], q[3]], scale[0], x);
                    add_half(acc, [q[4], q[5], q[6], q[7]], scale[1], high)
                } else {
                    add(acc[r], &q, scale[0], x)
                };
            });
            record = record.add(record_bytes);
            levels = levels.add(L::BLOCK_BYTES);
        }
    }
    // SAFETY: `Tile` has room for `rows` rows of `cols` columns, and a bias for the columns.
    unsafe { store(tile, first, &acc) }
    N
}

/// Where a block of an activation row is.
struct Row {
    /// 32 levels.
    levels: *const u8,
    /// f32.
    scale: *const u8,
    /// f32 or i32, see [`super::quantize::Terms`].
    term: *const u8,
}

// The products of a row are in assembly because the compiler, left to order those of 16 rows, interleaves them
// all, runs out of registers and takes half as long again.

/// `acc` plus the products of a block whose weights have minimums.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_with_min(mut acc: __m512, q: &[__m512i; 8], scale: __m512, min: __m512, x: Row) -> __m512 {
    // Named for their type, which tells the assembler how wide a register is meant.
    let (_dot, _s): (__m512i, __m512);
    // SAFETY: reads what the caller's `x` points to.
    unsafe {
        asm!(
            "vpxord {dot}, {dot}, {dot}",
            "vpdpbusd {dot}, {q0}, dword ptr [{x}]{{1to16}}",
            "vpdpbusd {dot}, {q1}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {dot}, {q2}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpbusd {dot}, {q3}, dword ptr [{x} + 12]{{1to16}}",
            "vpdpbusd {dot}, {q4}, dword ptr [{x} + 16]{{1to16}}",
            "vpdpbusd {dot}, {q5}, dword ptr [{x} + 20]{{1to16}}",
            "vpdpbusd {dot}, {q6}, dword ptr [{x} + 24]{{1to16}}",
            "vpdpbusd {dot}, {q7}, dword ptr [{x} + 28]{{1to16}}",
            "vmulps {s}, {scale}, dword ptr [{x_scale}]{{1to16}}",
            "vcvtdq2ps {dot}, {dot}",
            "vfmadd231ps {acc}, {dot}, {s}",
            "vfmadd231ps {acc}, {min}, dword ptr [{term}]{{1to16}}",
            acc = inout(zmm_reg) acc,
            dot = out(zmm_reg) _dot,
            s = out(zmm_reg) _s,
            q0 = in(zmm_reg) q[0], q1 = in(zmm_reg) q[1], q2 = in(zmm_reg) q[2], q3 = in(zmm_reg) q[3],
            q4 = in(zmm_reg) q[4], q5 = in(zmm_reg) q[5], q6 = in(zmm_reg) q[6], q7 = in(zmm_reg) q[7],
            scale = in(zmm_reg) scale,
            min = in(zmm_reg) min,
            x = in(reg) x.levels, x_scale = in(reg) x.scale, term = in(reg) x.term,
            options(nostack, preserves_flags, readonly),
        );
    }
    acc
}

/// `acc` plus the products of a block whose weights have a zero level.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add(mut acc: __m512, q: &[__m512i; 8], scale: __m512, x: Row) -> __m512 {
    // Named for their type, which tells the assembler how wide a register is meant.
    let (_dot, _s): (__m512i, __m512);
    // SAFETY: reads what the caller's `x` points to.
    unsafe {
        asm!(
            "vpbroadcastd {dot}, dword ptr [{term}]",
            "vpdpbusd {dot}, {q0}, dword ptr [{x}]{{1to16}}",
            "vpdpbusd {dot}, {q1}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {dot}, {q2}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpbusd {dot}, {q3}, dword ptr [{x} + 12]{{1to16}}",
            "vpdpbusd {dot}, {q4}, dword ptr [{x} + 16]{{1to16}}",
            "vpdpbusd {dot}, {q5}, dword ptr [{x} + 20]{{1to16}}",
            "vpdpbusd {dot}, {q6}, dword ptr [{x} + 24]{{1to16}}",
            "vpdpbusd {dot}, {q7}, dword ptr [{x} + 28]{{1to16}}",
            "vmulps {s}, {scale}, dword ptr [{x_scale}]{{1to16}}",
            "vcvtdq2ps {dot}, {dot}",
            "vfmadd231ps {acc}, {dot}, {s}",
            acc = inout(zmm_reg) acc,
            dot = out(zmm_reg) _dot,
            s = out(zmm_reg) _s,
            q0 = in(zmm_reg) q[0], q1 = in(zmm_reg) q[1], q2 = in(zmm_reg) q[2], q3 = in(zmm_reg) q[3],
            q4 = in(zmm_reg) q[4], q5 = in(zmm_reg) q[5], q6 = in(zmm_reg) q[6], q7 = in(zmm_reg) q[7],
            scale = in(zmm_reg) scale,
            x = in(reg) x.levels, x_scale = in(reg) x.scale, term = in(reg) x.term,
            options(nostack, preserves_flags, readonly),
        );
    }
    acc
}

/// `acc` plus the products of half a block whose weights have a zero level.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_half(mut acc: __m512, q: [__m512i; 4], scale: __m512, x: Row) -> __m512 {
    // Named for their type, which tells the assembler how wide a register is meant.
    let (_dot, _s): (__m512i, __m512);
    // SAFETY: reads what the caller's `x` points to.
    unsafe {
        asm!(
            "vpbroadcastd {dot}, dword ptr [{term}]",
            "vpdpbusd {dot}, {q0}, dword ptr [{x}]{{1to16}}",
            "vpdpbusd {dot}, {q1}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {dot}, {q2}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpbusd {dot}, {q3}, dword ptr [{x} + 12]{{1to16}}",
            "vmulps {s}, {scale}, dword ptr [{x_scale}]{{1to16}}",
            "vcvtdq2ps {dot}, {dot}",
            "vfmadd231ps {acc}, {dot}, {s}",
            acc = inout(zmm_reg) acc,
            dot = out(zmm_reg) _dot,
            s = out(zmm_reg) _s,
            q0 = in(zmm_reg) q[0], q1 = in(zmm_reg) q[1], q2 = in(zmm_reg) q[2], q3 = in(zmm_reg) q[3],
            scale = in(zmm_reg) scale,
            x = in(reg) x.levels, x_scale = in(reg) x.scale, term = in(reg) x.term,
            options(nostack, preserves_flags, readonly),
        );
    }
    acc
}

/// Stores rows `first..first + N`, with the bias added.
///
/// # Safety
/// As [`TileKernel`]; `first + N <= tile.rows`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const N: usize>(tile: &Tile, first: usize, acc: &[__m512; N]) {
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

const PREFETCH_BYTES: usize = 4096;
