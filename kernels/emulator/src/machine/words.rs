//! Operations of lanes on words and on 64-bit values.
//!
//! All of it is inlined into a loop that is compiled for what the CPU has, so that 32 lanes become a few vectors.

use super::float;
use crate::ptx::Word;

#[inline(always)]
pub(super) fn float_at<const N: usize>(lanes: &[u32; N], i: usize) -> f32 {
    f32::from_bits(lanes[i])
}

/// An operation on one half of words, each a step for all lanes.
macro_rules! half {
    ($from:ident, $to:ident, $of:expr, $shift:expr, |$a:ident, $b:ident, $c:ident| $value:expr) => {{
        let [x, y, z] = $of;
        let x: [u32; N] = each!(|i| float::$from(x[i] >> $shift & 0xffff).to_bits());
        let y: [u32; N] = each!(|i| float::$from(y[i] >> $shift & 0xffff).to_bits());
        let z: [u32; N] = each!(|i| float::$from(z[i] >> $shift & 0xffff).to_bits());
        let half: [u32; N] = each!(|i| {
            let ($a, $b, $c) = (float_at(&x, i), float_at(&y, i), float_at(&z, i));
            float::$to($value)
        });
        half
    }};
}

/// An operation on both halves of words.
macro_rules! both {
    ($from:ident, $to:ident, $of:expr, |$a:ident, $b:ident, $c:ident| $value:expr) => {{
        let low = half!($from, $to, $of, 0, |$a, $b, $c| $value);
        let high = half!($from, $to, $of, 16, |$a, $b, $c| $value);
        each!(|i| low[i] | high[i] << 16)
    }};
}

/// Whether an operation of all lanes takes much longer than one of a single lane.
#[inline(always)]
pub(super) fn is_slow(op: Word) -> bool {
    matches!(
        op,
        Word::DivS | Word::DivU | Word::RemS | Word::RemU | Word::Prmt | Word::Popc | Word::Clz | Word::Brev
    )
}

/// Whether an operation makes one value of lanes' different ones, such as their warp's number of their own.
#[inline(always)]
pub(super) fn may_join(op: Word) -> bool {
    matches!(op, Word::ShrU | Word::ShrS | Word::DivS | Word::DivU)
}

/// What an operation makes of up to three words.
#[inline(never)]
pub(super) fn one(op: Word, [a, b, c]: [u32; 3]) -> u32 {
    let [value] = word(op, &[a], &[b], &[c]);
    value
}

/// What an operation makes of up to three words of each lane.
#[inline(always)]
pub(super) fn word<const N: usize>(op: Word, a: &[u32; N], b: &[u32; N], c: &[u32; N]) -> [u32; N] {
    match op {
        Word::Mov => *a,
        Word::Add => each!(|i| a[i].wrapping_add(b[i])),
        Word::Sub => each!(|i| a[i].wrapping_sub(b[i])),
        Word::Mul => each!(|i| a[i].wrapping_mul(b[i])),
        Word::Mad => each!(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
        Word::MulHiS => each!(|i| ((i64::from(a[i] as i32) * i64::from(b[i] as i32)) >> 32) as u32),
        Word::MulHiU => each!(|i| ((u64::from(a[i]) * u64::from(b[i])) >> 32) as u32),
        Word::MinS => each!(|i| (a[i] as i32).min(b[i] as i32) as u32),
        Word::MinU => each!(|i| a[i].min(b[i])),
        Word::MaxS => each!(|i| (a[i] as i32).max(b[i] as i32) as u32),
        Word::MaxU => each!(|i| a[i].max(b[i])),
        Word::NegS => each!(|i| a[i].wrapping_neg()),
        Word::AbsS => each!(|i| (a[i] as i32).wrapping_abs() as u32),
        Word::And => each!(|i| a[i] & b[i]),
        Word::Or => each!(|i| a[i] | b[i]),
        Word::Xor => each!(|i| a[i] ^ b[i]),
        Word::Not => each!(|i| !a[i]),
        Word::Shl => each!(|i| if b[i] < 32 { a[i] << (b[i] & 31) } else { 0 }),
        Word::ShrU => each!(|i| if b[i] < 32 { a[i] >> (b[i] & 31) } else { 0 }),
        Word::ShrS => each!(|i| ((a[i] as i32) >> b[i].min(31)) as u32),
        _ => bits(op, a, b, c),
    }
}

#[inline(always)]
fn bits<const N: usize>(op: Word, a: &[u32; N], b: &[u32; N], c: &[u32; N]) -> [u32; N] {
    /// 64 bits, the high half first.
    fn pair(high: u32, low: u32) -> u64 {
        u64::from(high) << 32 | u64::from(low)
    }
    match op {
        Word::DivS => each!(|i| quotient(a[i] as i32, b[i] as i32)),
        Word::DivU => each!(|i| a[i].checked_div(b[i]).unwrap_or(u32::MAX)),
        Word::RemS => {
            each!(|i| a[i].wrapping_sub(quotient(a[i] as i32, b[i] as i32).wrapping_mul(b[i])))
        }
        Word::RemU => each!(|i| a[i].checked_rem(b[i]).unwrap_or(a[i])),
        Word::FunnelLWrap => each!(|i| (pair(b[i], a[i]) << (c[i] & 31) >> 32) as u32),
        Word::FunnelLClamp => each!(|i| (pair(b[i], a[i]) << c[i].min(32) >> 32) as u32),
        Word::FunnelRWrap => each!(|i| (pair(b[i], a[i]) >> (c[i] & 31)) as u32),
        Word::FunnelRClamp => each!(|i| (pair(b[i], a[i]) >> c[i].min(32)) as u32),
        Word::Popc => each!(|i| a[i].count_ones()),
        Word::Clz => each!(|i| a[i].leading_zeros()),
        Word::Brev => each!(|i| a[i].reverse_bits()),
        Word::BfindU => each!(|i| {
            if a[i] == 0 {
                u32::MAX
            } else {
                31 - a[i].leading_zeros()
            }
        }),
        Word::BfindShiftU => each!(|i| if a[i] == 0 { u32::MAX } else { a[i].leading_zeros() }),
        Word::BfeU => each!(|i| extracted(a[i], b[i], c[i])),
        Word::BfeS => each!(|i| extracted_signed(a[i], b[i], c[i])),
        Word::Prmt => each!(|i| permuted(a[i], b[i], c[i])),
        Word::Add16 => each!(|i| a[i].wrapping_add(b[i]) & 0xffff),
        Word::Sub16 => each!(|i| a[i].wrapping_sub(b[i]) & 0xffff),
        Word::Mul16 => each!(|i| a[i].wrapping_mul(b[i]) & 0xffff),
        Word::Not16 => each!(|i| !a[i] & 0xffff),
        Word::Shl16 => each!(|i| {
            if b[i] < 16 {
                a[i] << (b[i] & 15) & 0xffff
            } else {
                0
            }
        }),
        Word::ShrS16 => each!(|i| ((a[i] as i16) >> b[i].min(15)) as u16 as u32),
        Word::Low16 => each!(|i| a[i] & 0xffff),
        Word::High16 => each!(|i| a[i] >> 16),
        Word::Pack16 => each!(|i| a[i] & 0xffff | b[i] << 16),
        Word::SignExtend8 => each!(|i| a[i] as i8 as u32),
        Word::SignExtend16 => each!(|i| a[i] as i16 as u32),
        Word::ZeroExtend8 => each!(|i| a[i] & 0xff),
        Word::MulWideS16 => each!(|i| (i32::from(a[i] as i16) * i32::from(b[i] as i16)) as u32),
        _ => floating(op, a, b, c),
    }
}

#[inline(always)]
fn floating<const N: usize>(op: Word, a_bits: &[u32; N], b_bits: &[u32; N], c_bits: &[u32; N]) -> [u32; N] {
    let (a, b, c) = (
        |i: usize| float_at(a_bits, i),
        |i: usize| float_at(b_bits, i),
        |i: usize| float_at(c_bits, i),
    );
    match op {
        Word::AddF => each!(|i| (a(i) + b(i)).to_bits()),
        Word::SubF => each!(|i| (a(i) - b(i)).to_bits()),
        Word::MulF => each!(|i| (a(i) * b(i)).to_bits()),
        Word::FmaF => each!(|i| (a(i).mul_add(b(i), c(i))).to_bits()),
        Word::DivF => each!(|i| (a(i) / b(i)).to_bits()),
        Word::MinF => each!(|i| (float::min(a(i), b(i))).to_bits()),
        Word::MaxF => each!(|i| (float::max(a(i), b(i))).to_bits()),
        Word::NegF => each!(|i| (-a(i)).to_bits()),
        Word::AbsF => each!(|i| (a(i).abs()).to_bits()),
        Word::CopysignF => each!(|i| (b(i).copysign(a(i))).to_bits()),
        Word::SubDownF => each!(|i| (float::sub_down(a(i), b(i))).to_bits()),
        Word::SubUpF => each!(|i| (float::sub_up(a(i), b(i))).to_bits()),
        Word::FmaDownF => each!(|i| (float::fma_down(a(i), b(i), c(i))).to_bits()),
        Word::RcpF => each!(|i| (1.0 / a(i)).to_bits()),
        Word::RcpFlushF => each!(|i| (float::flushed(1.0 / float::flushed(a(i)))).to_bits()),
        Word::SqrtF => each!(|i| (a(i).sqrt()).to_bits()),
        Word::RsqrtF => each!(|i| ((1.0 / f64::from(a(i)).sqrt()) as f32).to_bits()),
        Word::Exp2F => each!(|i| (float::exp2(a(i))).to_bits()),
        Word::Exp2FlushF => each!(|i| (float::flushed(float::exp2(float::flushed(a(i))))).to_bits()),
        Word::Log2F => each!(|i| (a(i).log2()).to_bits()),
        Word::SaturateF => each!(|i| (float::saturated(a(i))).to_bits()),
        Word::RoundZeroF => each!(|i| (a(i).trunc()).to_bits()),
        Word::RoundEvenF => each!(|i| (a(i).round_ties_even()).to_bits()),
        Word::RoundDownF => each!(|i| (a(i).floor()).to_bits()),
        Word::RoundUpF => each!(|i| (a(i).ceil()).to_bits()),
        Word::FToF16 => each!(|i| float::f32_to_f16(a(i))),
        Word::FToBf16 => each!(|i| float::f32_to_bf16(a(i))),
        Word::FToF16x2 => each!(|i| float::f32_to_f16(a(i)) << 16 | float::f32_to_f16(b(i))),
        Word::FToBf16x2 => each!(|i| float::f32_to_bf16(a(i)) << 16 | float::f32_to_bf16(b(i))),
        Word::FToSZero => each!(|i| a(i) as i32 as u32),
        Word::FToSEven => each!(|i| a(i).round_ties_even() as i32 as u32),
        Word::FToSDown => each!(|i| a(i).floor() as i32 as u32),
        Word::FToUZero => each!(|i| a(i) as u32),
        Word::FToUEven => each!(|i| a(i).round_ties_even() as u32),
        _ => halves(op, a_bits, b_bits, c_bits),
    }
}

#[inline(always)]
fn halves<const N: usize>(op: Word, a: &[u32; N], b: &[u32; N], c: &[u32; N]) -> [u32; N] {
    // Sums and products of 11 bits that are rounded twice are as if rounded once.
    match op {
        Word::F16ToF => each!(|i| (float::f16_to_f32(a[i])).to_bits()),
        Word::Bf16ToF => each!(|i| (float::bf16_to_f32(a[i])).to_bits()),
        Word::SToF => each!(|i| (a[i] as i32 as f32).to_bits()),
        Word::UToF => each!(|i| (a[i] as f32).to_bits()),
        Word::AddF16x2 => both!(f16_to_f32, f32_to_f16, [a, b, c], |a, b, _c| a + b),
        Word::SubF16x2 => both!(f16_to_f32, f32_to_f16, [a, b, c], |a, b, _c| a - b),
        Word::MulF16x2 => both!(f16_to_f32, f32_to_f16, [a, b, c], |a, b, _c| a * b),
        Word::FmaF16x2 => both!(f16_to_f32, f32_to_f16, [a, b, c], |a, b, c| {
            float::product_and_sum(a, b, c)
        }),
        Word::AddBf16x2 => both!(bf16_to_f32, f32_to_bf16, [a, b, c], |a, b, _c| a + b),
        Word::SubBf16x2 => both!(bf16_to_f32, f32_to_bf16, [a, b, c], |a, b, _c| a - b),
        Word::MulBf16x2 => both!(bf16_to_f32, f32_to_bf16, [a, b, c], |a, b, _c| a * b),
        Word::FmaBf16x2 => both!(bf16_to_f32, f32_to_bf16, [a, b, c], |a, b, c| {
            float::product_and_sum(a, b, c)
        }),
        _ => *a,
    }
}

/// `a / b`; a GPU gives something without a meaning if b is 0.
#[inline(always)]
fn quotient(a: i32, b: i32) -> u32 {
    let quotient = f64::from(a) / f64::from(if b == 0 { 1 } else { b });
    // SAFETY: in an i64, as are all quotients of an i32, which f64 has exactly, by one that is not 0.
    let whole: i64 = unsafe { quotient.to_int_unchecked() };
    whole as u32
}

fn extracted(a: u32, position: u32, len: u32) -> u32 {
    let (position, len) = (position & 0xff, len & 0xff);
    let shifted = u64::from(a) >> position.min(63);
    (shifted & ((1 << len.min(32)) - 1)) as u32
}

fn extracted_signed(a: u32, position: u32, len: u32) -> u32 {
    let (position, len) = (position & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let shifted = i64::from(a as i32) >> position.min(63);
    let unused = 64 - len.min(32);
    (shifted << unused >> unused) as u32
}

/// Bytes of (b, a) chosen by four bits each, of which the highest asks for the sign only.
#[inline(always)]
fn permuted(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let byte = |i: u32| {
        let choice = selector >> (4 * i);
        let byte = (bytes >> (8 * (choice & 7))) as u32 & 0xff;
        let sign = if byte & 0x80 != 0 { 0xff } else { 0 };
        (if choice & 8 != 0 { sign } else { byte }) << (8 * i)
    };
    byte(0) | byte(1) | byte(2) | byte(3)
}

/// (a, b, position, length): a's low bits in the place of some of b's.
pub(super) fn inserted(a: u64, b: u64, position: u32, len: u32, bits: u32) -> u64 {
    let (position, len) = (position & 0xff, len & 0xff);
    if position >= bits || len == 0 {
        return b;
    }
    let mask = (u128::from(u64::MAX) >> (64 - len.min(64))) as u64;
    let mask = mask << position;
    b & !mask | a << position & mask
}

/// A table of what three bits give.
#[inline(always)]
pub(super) fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let mut result = 0;
    for i in 0..8 {
        let of = |x: u32, bit: u32| if i & bit != 0 { x } else { !x };
        let here = of(a, 4) & of(b, 2) & of(c, 1);
        result |= here & u32::from(table >> i & 1).wrapping_neg();
    }
    result
}
