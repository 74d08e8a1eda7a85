//! Products of tensor cores (PTX ISA, "Matrix multiply-accumulate" of warps and of warpgroups): operands of 16 bits, sums in f32.

use crate::machine::float;

/// The operands' element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

/// A register of each lane of a warp.
pub(crate) type Lanes = [u32; 32];

/// Sixteen rows of a left side.
type Rows = [[f32; 16]; 16];
/// Eight columns of a right side, k along the first index.
type Columns = [[f32; 8]; 16];

impl Half {
    #[inline(always)]
    fn to_f32<const N: usize>(self, bits: [u16; N]) -> [f32; N] {
        let mut values = [0.0; N];
        match self {
            Self::F16 => {
                for (value, bits) in values.iter_mut().zip(bits) {
                    *value = float::f16_to_f32(bits.into());
                }
            }
            Self::Bf16 => {
                for (value, bits) in values.iter_mut().zip(bits) {
                    *value = float::bf16_to_f32(bits.into());
                }
            }
        }
        values
    }

    /// The 8 x 8 matrix that a register of each lane is: lane 4 i + j has numbers 2 j and 2 j + 1 of row i.
    #[inline(always)]
    fn eight_rows(self, register: &Lanes) -> [f32; 64] {
        let mut bits = [0; 64];
        for (pair, word) in bits.as_chunks_mut::<2>().0.iter_mut().zip(register) {
            *pair = [*word as u16, (*word >> 16) as u16];
        }
        self.to_f32(bits)
    }
}

/// The 16 x 16 matrix that four registers of each lane are (`mma.m16n8k16`, operand a; `wgmma`, a warp's rows of a).
#[inline(always)]
fn left(half: Half, registers: &[Lanes; 4]) -> Rows {
    let mut a = [[0.0; 16]; 16];
    for (i, register) in registers.iter().enumerate() {
        let eight = half.eight_rows(register);
        for (row, values) in eight.as_chunks::<8>().0.iter().enumerate() {
            a[row + i % 2 * 8][i / 2 * 8..][..8].copy_from_slice(values);
        }
    }
    a
}

/// `a . b`, of eight columns. The product of two numbers of 16 bits is exact, so that it does not matter whether it is
/// `FUSED` with the sum: it may if the CPU has an instruction for it.
#[inline(always)]
fn products<const FUSED: bool>(a: &Rows, b: &Columns) -> [f32; 128] {
    let mut sums = [0.0; 128];
    let rows = a.as_chunks::<4>().0;
    for (rows, sums) in rows.iter().zip(sums.as_chunks_mut::<32>().0) {
        let mut four = [[0.0_f32; 8]; 4];
        for (k, b) in b.iter().enumerate() {
            for (row, sums) in rows.iter().zip(&mut four) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = if FUSED {
                        row[k].mul_add(*b, *sum)
                    } else {
                        row[k] * b + *sum
                    };
                }
            }
        }
        sums.copy_from_slice(four.as_flattened());
    }
    sums
}

/// Adds `a . b` to the four registers that a lane has of eight columns: (g, 2 t), (g, 2 t + 1), and of row g + 8.
#[inline(always)]
fn add_products<const FUSED: bool>(a: &Rows, b: &Columns, sums: &mut [Lanes; 4]) {
    let products = products::<FUSED>(a, b);
    for (half, registers) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let [even, odd] = registers;
        for lane in 0..32 {
            let add = |sum: u32, product: f32| (f32::from_bits(sum) + product).to_bits();
            even[lane] = add(even[lane], products[64 * half + 2 * lane]);
            odd[lane] = add(odd[lane], products[64 * half + 2 * lane + 1]);
        }
    }
}

/// `mma.sync.m16n8k16.row.col`: c and the result are f32.
pub(crate) fn mma_16_8_16(half: Half, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4]) -> [Lanes; 4] {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the CPU has what it is compiled for.
        return unsafe { mma_with_avx2(half, a, b, c) };
    }
    mma::<false>(half, a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn mma_with_avx2(half: Half, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4]) -> [Lanes; 4] {
    mma::<true>(half, a, b, c)
}

#[inline(always)]
fn mma<const FUSED: bool>(half: Half, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4]) -> [Lanes; 4] {
    let mut columns = [[0.0; 8]; 16];
    for (i, register) in b.iter().enumerate() {
        let eight = half.eight_rows(register);
        for k in 0..8 {
            for column in 0..8 {
                columns[8 * i + k][column] = eight[8 * column + k];
            }
        }
    }
    let mut sums = *c;
    add_products::<FUSED>(&left(half, a), &columns, &mut sums);
    sums
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// A side of a product that lies in shared memory, by its descriptor, k along rows ("K-major").
#[derive(Clone, Copy, Debug)]
struct Operand {
    offset: usize,
    /// From eight rows to the next.
    eight_rows: usize,
    /// Bits of the offset that choose among the chunks of a row: of 128, 64 or 32 bytes, or none.
    swizzle_bits: u32,
}

impl Operand {
    /// `None` if the descriptor says what no kernel here needs.
    fn new(descriptor: u64) -> Option<Self> {
        let field = |first: u32, bits: u32| (descriptor >> first & ((1 << bits) - 1)) as usize;
        let swizzle_bits = match field(62, 2) {
            1 => 3,
            2 => 2,
            3 => 1,
            _ => return None,
        };
        // A base that is not at the beginning of what repeats would need the field for it.
        (field(49, 3) == 0).then_some(Self {
            offset: field(0, 14) << 4,
            eight_rows: field(32, 14) << 4,
            swizzle_bits,
        })
    }

    /// Sixteen elements along k of each of eight rows, from an eighth one on.
    #[inline(always)]
    fn eight_rows(&self, half: Half, shared: &[u8], eighth: usize) -> Option<[[f32; 16]; 8]> {
        let line_bytes = 16 << self.swizzle_bits;
        let mut bits = [0; 128];
        for (i, chunk) in bits.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (row, half) = (i / 2, i % 2);
            let at = self.offset + eighth * self.eight_rows + row * line_bytes + 16 * half;
            // Rows of 128 bytes choose by bits 7 to 9, of 64 by 7 and 8, of 32 by 7.
            let at = at ^ (at >> 7 & ((1 << self.swizzle_bits) - 1)) << 4;
            let bytes = shared.get(at..at + 16)?;
            for (bits, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *bits = u16::from_le_bytes(*bytes);
            }
        }
        let values = half.to_f32(bits);
        let mut rows = [[0.0; 16]; 8];
        rows.as_flattened_mut().copy_from_slice(&values);
        Some(rows)
    }
}

/// The left side of a product of four warps: a warp's own registers, or a descriptor.
pub(crate) enum Left<'a> {
    Registers(&'a [Lanes; 4]),
    Shared(u64),
}

/// One warp's 16 rows of `wgmma.mma_async.m64nNk16`, `warp` of four: adds to, or without `add` replaces, the N / 2 registers of
/// `sums`. `None`: a descriptor that is not understood, or one that leads outside of `shared`, the block's shared memory.
pub(crate) fn wgmma(
    half: Half,
    sides: (Left<'_>, u64),
    (warp, add): (usize, bool),
    shared: &[u8],
    sums: &mut [Lanes],
) -> Option<()> {
    if !add {
        sums.fill([0; 32]);
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the CPU has what it is compiled for.
        return unsafe { wgmma_with_avx2(half, sides, warp, shared, sums) };
    }
    add_wgmma::<false>(half, sides, warp, shared, sums)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wgmma_with_avx2(
    half: Half,
    sides: (Left<'_>, u64),
    warp: usize,
    shared: &[u8],
    sums: &mut [Lanes],
) -> Option<()> {
    add_wgmma::<true>(half, sides, warp, shared, sums)
}

#[inline(always)]
fn add_wgmma<const FUSED: bool>(
    half: Half,
    (a, b): (Left<'_>, u64),
    warp: usize,
    shared: &[u8],
    sums: &mut [Lanes],
) -> Option<()> {
    let rows = match a {
        Left::Registers(registers) => left(half, registers),
        Left::Shared(descriptor) => {
            let operand = Operand::new(descriptor)?;
            let mut rows = [[0.0; 16]; 16];
            for i in 0..2 {
                let eight = operand.eight_rows(half, shared, 2 * warp + i)?;
                rows[8 * i..8 * i + 8].copy_from_slice(&eight);
            }
            rows
        }
    };
    let operand = Operand::new(b)?;
    for (eighth, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let eight = operand.eight_rows(half, shared, eighth)?;
        let mut columns = [[0.0; 8]; 16];
        for (k, values) in columns.iter_mut().enumerate() {
            for (value, column) in values.iter_mut().zip(&eight) {
                *value = column[k];
            }
        }
        add_products::<FUSED>(&rows, &columns, sums);
    }
    Some(())
}
