//! Products of tensor cores (PTX ISA, "Matrix multiply-accumulate" of warps and of warpgroups): operands of 16 bits, sums in f32.

use half::{bf16, f16};

/// The operands' element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

/// A register of each lane of a warp.
pub(crate) type Lanes = [u32; 32];

impl Half {
    fn to_f32(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }

    fn pair(self, word: u32) -> [f32; 2] {
        [word as u16, (word >> 16) as u16].map(|bits| self.to_f32(bits))
    }
}

/// The 16 x 16 matrix that four registers of each lane are (`mma.m16n8k16`, operand a; `wgmma`, a warp's rows of a).
fn left(half: Half, registers: &[Lanes; 4]) -> [[f32; 16]; 16] {
    let mut a = [[0.0; 16]; 16];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (i, register) in registers.iter().enumerate() {
            let (row, column) = (g + i % 2 * 8, 2 * t + i / 2 * 8);
            a[row][column..column + 2].copy_from_slice(&half.pair(register[lane]));
        }
    }
    a
}

/// Adds `a (16, 16) . b (columns, 16)^T` to the sums that a lane has of each eight columns: (g, g) and (g + 8, g + 8).
fn add_products(a: &[[f32; 16]; 16], b: &[[f32; 16]], sums: &mut [Lanes]) {
    for (i, eight) in b.chunks_exact(8).enumerate() {
        for (row, a) in a.iter().enumerate() {
            for (column, b) in eight.iter().enumerate() {
                let lane = row % 8 * 4 + column / 2;
                let sum = &mut sums[4 * i + row / 8 * 2 + column % 2][lane];
                let products = a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                *sum = (f32::from_bits(*sum) + products).to_bits();
            }
        }
    }
}

/// `mma.sync.m16n8k16.row.col`: c and the result are f32.
pub(crate) fn mma_16_8_16(half: Half, a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4]) -> [Lanes; 4] {
    let mut columns = [[0.0; 16]; 8];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (i, register) in b.iter().enumerate() {
            let k = 2 * t + 8 * i;
            columns[g][k..k + 2].copy_from_slice(&half.pair(register[lane]));
        }
    }
    let mut sums = *c;
    add_products(&left(half, a), &columns, &mut sums);
    sums
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

    /// Sixteen elements along k of a row.
    fn row(&self, half: Half, shared: &[u8], row: usize) -> Option<[f32; 16]> {
        let line_bytes = 16 << self.swizzle_bits;
        let mut elements = [0.0; 16];
        for (k, element) in elements.iter_mut().enumerate() {
            let at = self.offset + row / 8 * self.eight_rows + row % 8 * line_bytes + 2 * k;
            // Rows of 128 bytes choose by bits 7 to 9, of 64 by 7 and 8, of 32 by 7.
            let at = at ^ (at >> 7 & ((1 << self.swizzle_bits) - 1)) << 4;
            let bytes = shared.get(at..at + 2)?;
            *element = half.to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
        }
        Some(elements)
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
    (a, b): (Left<'_>, u64),
    (warp, add): (usize, bool),
    shared: &[u8],
    sums: &mut [Lanes],
) -> Option<()> {
    let rows = match a {
        Left::Registers(registers) => left(half, registers),
        Left::Shared(descriptor) => {
            let operand = Operand::new(descriptor)?;
            let mut rows = [[0.0; 16]; 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = operand.row(half, shared, 16 * warp + i)?;
            }
            rows
        }
    };
    let operand = Operand::new(b)?;
    let columns = (0..sums.len() * 2).map(|column| operand.row(half, shared, column));
    let columns = columns.collect::<Option<Vec<_>>>()?;
    if !add {
        sums.fill([0; 32]);
    }
    add_products(&rows, &columns, sums);
    Some(())
}
