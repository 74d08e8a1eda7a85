//! Tile kernels for AMX: the matrix unit multiplies the levels of a block, AVX-512 does the rest, operation by
//! operation as in [`avx512`], so that the bits are the same.
//!
//! A quad is what the unit wants of its right operand, a record's levels are what it wants of its left: nothing
//! is stored twice for it. Its sums pass through memory, as it shares no registers with the vector units; those
//! add up a block while the unit multiplies the next.
#![allow(unsafe_code)]

use std::{
    arch::{asm, x86_64::*},
    mem::MaybeUninit,
};

use super::{
    avx512,
    avx512_decode::{
        Affine, Bits4, Bits5, Bits6, Bits8, Block, BlockMin, Group, Levels, SuperHalves, SuperMin, unroll,
    },
    packed::{PackedFormat, Quants, Scales},
    quantize::PAIRED_ROWS,
    tile::{Strip, Tile, dispatch_format},
};

/// Calls `$body` with the constant `$row` = 0, 1, ... below `$n`.
macro_rules! each_row {
    ($n:expr, |$row:ident| $body:block) => {
        each_row!(@ $n, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $n:expr, $row:ident, $body:block, $($i:literal)*) => {
        $(if $i < $n {
            const $row: usize = $i;
            $body
        })*
    };
}

/// What a thread computes the strips of a format with.
#[derive(Debug)]
pub(super) struct Kernel {
    compute: StripKernel,
    shapes: Shapes,
}

type StripKernel = unsafe fn(&Strip);

impl Kernel {
    pub(super) fn new(format: PackedFormat) -> Self {
        Self {
            compute: dispatch_format!(format, any_rows),
            shapes: Shapes::default(),
        }
    }

    /// Computes a strip whose tiles are multiplied by the matrix unit ([`is_multiplied`]).
    ///
    /// # Safety
    /// The process may use AMX; the strip is of this kernel's format, and its pointers are valid for what
    /// [`Tile`] says of them.
    pub(super) unsafe fn compute(&mut self, strip: &Strip) {
        // SAFETY: the caller's promise; the shapes fit before they are used.
        unsafe {
            self.shapes.fit();
            (self.compute)(strip);
        }
    }
}

/// Whether the matrix unit takes a tile: full tiles and paired ones. Storing its sums costs as much for a row as
/// for 16, so the rest is left to the vector units; so are weights with a scale each half of a block.
pub(super) fn is_multiplied(tile: &Tile) -> bool {
    tile.format.scales != Scales::SuperHalves && (tile.paired || tile.rows == 16)
}

/// The shapes of this thread's tile registers, while it computes tiles.
#[derive(Debug, Default)]
struct Shapes {
    in_use: bool,
}

impl Shapes {
    /// Gives the registers their shapes.
    ///
    /// # Safety
    /// The process may use AMX.
    unsafe fn fit(&mut self) {
        if self.in_use {
            return;
        }
        // SAFETY: the caller's promise; the instruction reads the 64 bytes of `CONFIG`, which are valid.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly));
        }
        self.in_use = true;
    }
}

impl Drop for Shapes {
    /// Registers in use make a switch to another thread save 8 KiB more.
    fn drop(&mut self) {
        if self.in_use {
            // SAFETY: they were configured, so the processor has them.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        }
    }
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Registers 0 and 1 hold sums; 2 the activations of a block, 3 its quads; 4 and 5 the activations of two blocks,
/// 6 and 7 their quads.
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 32, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 8, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn any_rows<L: Levels, A: Affine>(strip: &Strip) {
    // SAFETY: the caller's promise. A paired tile has room for 8 rows in its records, and no more of its own.
    unsafe {
        if strip.tile(0).paired {
            rows::<L, A, 2, PAIRED_ROWS>(strip);
        } else {
            rows::<L, A, 1, 16>(strip);
        }
    }
}

/// Where the matrix unit and the vector units meet: a ring of products under way.
#[repr(C, align(64))]
struct Exchange {
    /// The quads of a block or two.
    quads: [[u8; 1024]; RING],
    /// Sums of 16 rows, or of 8 rows of one block and then of the next.
    sums: [[u8; 1024]; RING],
}

const RING: usize = 4;

/// How many products the unpacking of quads, and multiplying, are ahead of adding up. The matrix unit does not
/// read what is still on its way to the cache, but waits until it is there.
const UNPACK_AHEAD: usize = 3;
const MULTIPLY_AHEAD: usize = 1;

/// Walks over the products of a strip, group after group.
struct Walk {
    group: usize,
    product: usize,
    /// The tile of `group`.
    tile: Tile,
}

impl Walk {
    fn new(strip: &Strip) -> Self {
        Self {
            group: 0,
            product: 0,
            tile: strip.tile(0),
        }
    }

    /// Goes on to the next product of `products` a group; whether that is in another group.
    #[inline]
    fn advance(&mut self, strip: &Strip, products: usize) -> bool {
        self.product += 1;
        if self.product < products {
            return false;
        }
        self.product = 0;
        self.group += 1;
        self.tile = strip.tile(self.group);
        true
    }
}

/// The tiles of a strip, N rows each, B blocks a product. The ring runs on from group to group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rows<L: Levels, A: Affine, const B: usize, const N: usize>(strip: &Strip) {
    let (mut unpacking, mut multiplying, mut adding) = (Walk::new(strip), Walk::new(strip), Walk::new(strip));
    let products = adding.tile.blocks / B;
    let total = products * strip.groups;
    let (level_bytes, record_bytes) = (512 * B, 512 * B + 128);
    let mut exchange = MaybeUninit::<Exchange>::uninit();
    let exchange = exchange.as_mut_ptr();
    let mut acc = [_mm512_setzero_ps(); N];
    // SAFETY: each `Tile` has `blocks` blocks of levels and scales, and `products` records; the walks take
    // `total` steps, so that all are read only in the strip's groups. Quads and sums are written before they are
    // read, and read before they are written again: the ring is long enough.
    unsafe {
        prefetch_output(&adding.tile);
        for step in 0..total + UNPACK_AHEAD {
            if step < total && !L::ARE_QUADS {
                let levels = unpacking.tile.quants.add(unpacking.product * B * L::BLOCK_BYTES);
                unpack::<L, B>(levels, (&raw mut (*exchange).quads[step % RING]).cast());
                unpacking.advance(strip, products);
            }
            let index = step.wrapping_sub(UNPACK_AHEAD - MULTIPLY_AHEAD);
            if index < total {
                let Walk { tile, product, .. } = &multiplying;
                let quads: *const u8 = if L::ARE_QUADS {
                    let levels = tile.quants.add(product * B * L::BLOCK_BYTES);
                    avx512::prefetch(levels, B * L::BLOCK_BYTES);
                    levels
                } else {
                    (&raw const (*exchange).quads[index % RING]).cast()
                };
                let sums = (&raw mut (*exchange).sums[index % RING]).cast();
                multiply::<B>(quads, tile.x.add(product * record_bytes), sums);
                if multiplying.advance(strip, products) && multiplying.group < strip.groups {
                    prefetch_output(&multiplying.tile);
                }
            }
            let index = step.wrapping_sub(UNPACK_AHEAD);
            if index < total {
                let Walk { tile, product, .. } = &adding;
                let sums: *const u8 = (&raw const (*exchange).sums[index % RING]).cast();
                let record = tile.x.add(product * record_bytes + level_bytes);
                for block in 0..B {
                    let (scale, min) = A::at(tile.scales, product * B + block);
                    let scales = tile.scales.wrapping_add((product * B + block) * A::BLOCK_BYTES);
                    avx512::prefetch(scales, 64);
                    let x = Rows {
                        sums: sums.add(64 * N * block),
                        scales: record.add(8 * N * block),
                        terms: record.add(8 * N * block + 4 * N),
                    };
                    each_row!(N, |R| {
                        acc[R] = if A::HAS_MIN {
                            add_with_min::<R>(acc[R], scale[0], min, &x)
                        } else {
                            add::<R>(acc[R], scale[0], &x)
                        };
                    });
                }
                if product + 1 == products {
                    store(tile, &acc);
                    acc = [_mm512_setzero_ps(); N];
                }
                adding.advance(strip, products);
            }
        }
    }
}

/// Fetches where the results will go. Stores happen in order: those that the matrix unit waits for would wait for
/// the results of the tile before.
#[inline]
fn prefetch_output(tile: &Tile) {
    for row in 0..tile.rows {
        let at = tile.out.wrapping_add(row * tile.out_stride);
        // SAFETY: fetching has no effect but on time, whatever the address.
        unsafe { asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
    }
}

/// Unpacks B blocks at `levels` into `quads`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<L: Levels, const B: usize>(levels: *const u8, quads: *mut u8) {
    avx512::prefetch(levels, B * L::BLOCK_BYTES);
    for block in 0..B {
        // SAFETY: the caller's `levels` has B blocks, and `quads` has room for theirs.
        unsafe {
            let q = L::quads(levels.add(block * L::BLOCK_BYTES));
            unroll!(8, |v| {
                _mm512_store_si512(quads.add(512 * block + 64 * v).cast(), q[v]);
            });
        }
    }
}

/// Multiplies the quads of B blocks with the levels of the record at `x`, into `sums`.
#[inline]
unsafe fn multiply<const B: usize>(quads: *const u8, x: *const u8, sums: *mut u8) {
    // SAFETY: the caller's pointers; the registers have the shapes of `CONFIG`.
    unsafe {
        if B == 2 {
            asm!(
                "tileloadd tmm6, [{quads} + {line}]",
                "tileloadd tmm4, [{x} + {line}]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm4, tmm6",
                "tilestored [{sums} + {line}], tmm0",
                quads = in(reg) quads, x = in(reg) x, sums = in(reg) sums, line = in(reg) 64_usize,
                options(nostack, preserves_flags),
            );
        } else {
            asm!(
                "tileloadd tmm3, [{quads} + {line}]",
                "tileloadd tmm2, [{x} + {row}]",
                "tilezero tmm1",
                "tdpbsud tmm1, tmm2, tmm3",
                "tilestored [{sums} + {line}], tmm1",
                quads = in(reg) quads, x = in(reg) x, sums = in(reg) sums,
                line = in(reg) 64_usize, row = in(reg) 32_usize,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Stores the rows of the tile, of which a paired one may have fewer than N.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(tile: &Tile, acc: &[__m512; N]) {
    // SAFETY: `Tile` has room for its rows.
    unsafe {
        if N == 16 {
            avx512::store(tile, 0, acc);
        } else {
            unroll!(N, |r| {
                if r < tile.rows {
                    avx512::store(tile, r, &[acc[r]]);
                }
            });
        }
    }
}

/// Where the sums of a block are, and what of its activation rows goes with them; a row after another.
struct Rows {
    /// 16 i32 a row.
    sums: *const u8,
    /// f32.
    scales: *const u8,
    /// f32 or i32, see [`super::quantize::Terms`].
    terms: *const u8,
}

// In assembly for the reason that `avx512` has.

/// `acc` plus row R's sums of a block whose weights have minimums.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_with_min<const R: usize>(mut acc: __m512, scale: __m512, min: __m512, x: &Rows) -> __m512 {
    // Named for their type, which tells the assembler how wide a register is meant.
    let (_dot, _s): (__m512, __m512);
    // SAFETY: reads what the caller's `x` points to.
    unsafe {
        asm!(
            "vmulps {s}, {scale}, dword ptr [{scales} + {lane}]{{1to16}}",
            "vcvtdq2ps {dot}, zmmword ptr [{sums} + {line}]",
            "vfmadd231ps {acc}, {dot}, {s}",
            "vfmadd231ps {acc}, {min}, dword ptr [{terms} + {lane}]{{1to16}}",
            acc = inout(zmm_reg) acc,
            dot = out(zmm_reg) _dot,
            s = out(zmm_reg) _s,
            scale = in(zmm_reg) scale,
            min = in(zmm_reg) min,
            sums = in(reg) x.sums, scales = in(reg) x.scales, terms = in(reg) x.terms,
            line = const 64 * R, lane = const 4 * R,
            options(nostack, preserves_flags, readonly),
        );
    }
    acc
}

/// `acc` plus row R's sums of a block whose weights have a zero level.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add<const R: usize>(mut acc: __m512, scale: __m512, x: &Rows) -> __m512 {
    // Named for their type, which tells the assembler how wide a register is meant.
    let (_dot, _s): (__m512i, __m512);
    // SAFETY: reads what the caller's `x` points to.
    unsafe {
        asm!(
            "vpbroadcastd {dot}, dword ptr [{terms} + {lane}]",
            "vmulps {s}, {scale}, dword ptr [{scales} + {lane}]{{1to16}}",
            "vpaddd {dot}, {dot}, zmmword ptr [{sums} + {line}]",
            "vcvtdq2ps {dot}, {dot}",
            "vfmadd231ps {acc}, {dot}, {s}",
            acc = inout(zmm_reg) acc,
            dot = out(zmm_reg) _dot,
            s = out(zmm_reg) _s,
            scale = in(zmm_reg) scale,
            sums = in(reg) x.sums, scales = in(reg) x.scales, terms = in(reg) x.terms,
            line = const 64 * R, lane = const 4 * R,
            options(nostack, preserves_flags, readonly),
        );
    }
    acc
}
