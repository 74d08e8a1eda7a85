//! Operations of lanes on words and on 64-bit values.
//!
//! All of it is inlined into a loop that is compiled for what the CPU has, so that 32 lanes become a few vectors.

use super::float;
use crate::{matrix::Lanes, ptx::Word};

#[inline(always)]
pub(super) fn each(f: impl Fn(usize) -> u32) -> Lanes {
    let mut lanes = [0; 32];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = f(i);
    }
    lanes
}

#[inline(always)]
fn floats(f: impl Fn(usize) -> f32) -> Lanes {
    each(|i| f(i).to_bits())
}

#[inline(always)]
pub(super) fn float_at(lanes: &Lanes, i: usize) -> f32 {
    f32::from_bits(lanes[i])
}

/// What an operation makes of up to three words of each lane.
#[inline(always)]
pub(super) fn word(op: Word, a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    match op {
        Word::Mov => *a,
        Word::Add => each(|i| a[i].wrapping_add(b[i])),
        Word::Sub => each(|i| a[i].wrapping_sub(b[i])),
        Word::Mul => each(|i| a[i].wrapping_mul(b[i])),
        Word::Mad => each(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
        Word::MulHiS => each(|i| ((i64::from(a[i] as i32) * i64::from(b[i] as i32)) >> 32) as u32),
        Word::MulHiU => each(|i| ((u64::from(a[i]) * u64::from(b[i])) >> 32) as u32),
        Word::MinS => each(|i| (a[i] as i32).min(b[i] as i32) as u32),
        Word::MinU => each(|i| a[i].min(b[i])),
        Word::MaxS => each(|i| (a[i] as i32).max(b[i] as i32) as u32),
        Word::MaxU => each(|i| a[i].max(b[i])),
        Word::NegS => each(|i| a[i].wrapping_neg()),
        Word::AbsS => each(|i| (a[i] as i32).wrapping_abs() as u32),
        Word::And => each(|i| a[i] & b[i]),
        Word::Or => each(|i| a[i] | b[i]),
        Word::Xor => each(|i| a[i] ^ b[i]),
        Word::Not => each(|i| !a[i]),
        Word::Shl => each(|i| if b[i] < 32 { a[i] << (b[i] & 31) } else { 0 }),
        Word::ShrU => each(|i| if b[i] < 32 { a[i] >> (b[i] & 31) } else { 0 }),
        Word::ShrS => each(|i| ((a[i] as i32) >> b[i].min(31)) as u32),
        _ => bits(op, a, b, c),
    }
}

#[inline(always)]
fn bits(op: Word, a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    /// 64 bits, the high half first.
    fn pair(high: u32, low: u32) -> u64 {
        u64::from(high) << 32 | u64::from(low)
    }
    match op {
        Word::DivS => each(|i| (a[i] as i32).checked_div(b[i] as i32).unwrap_or(-1) as u32),
        Word::DivU => each(|i| a[i].checked_div(b[i]).unwrap_or(u32::MAX)),
        Word::RemS => each(|i| (a[i] as i32).checked_rem(b[i] as i32).unwrap_or(0) as u32),
        Word::RemU => each(|i| a[i].checked_rem(b[i]).unwrap_or(a[i])),
        Word::FunnelLWrap => each(|i| (pair(b[i], a[i]) << (c[i] & 31) >> 32) as u32),
        Word::FunnelLClamp => each(|i| (pair(b[i], a[i]) << c[i].min(32) >> 32) as u32),
        Word::FunnelRWrap => each(|i| (pair(b[i], a[i]) >> (c[i] & 31)) as u32),
        Word::FunnelRClamp => each(|i| (pair(b[i], a[i]) >> c[i].min(32)) as u32),
        Word::Popc => each(|i| a[i].count_ones()),
        Word::Clz => each(|i| a[i].leading_zeros()),
        Word::Brev => each(|i| a[i].reverse_bits()),
        Word::BfindU => each(|i| {
            if a[i] == 0 {
                u32::MAX
            } else {
                31 - a[i].leading_zeros()
            }
        }),
        Word::BfindShiftU => each(|i| if a[i] == 0 { u32::MAX } else { a[i].leading_zeros() }),
        Word::BfeU => each(|i| extracted(a[i], b[i], c[i])),
        Word::BfeS => each(|i| extracted_signed(a[i], b[i], c[i])),
        Word::Prmt => each(|i| permuted(a[i], b[i], c[i])),
        Word::Add16 => each(|i| a[i].wrapping_add(b[i]) & 0xffff),
        Word::Sub16 => each(|i| a[i].wrapping_sub(b[i]) & 0xffff),
        Word::Mul16 => each(|i| a[i].wrapping_mul(b[i]) & 0xffff),
        Word::Not16 => each(|i| !a[i] & 0xffff),
        Word::Shl16 => each(|i| {
            if b[i] < 16 {
                a[i] << (b[i] & 15) & 0xffff
            } else {
                0
            }
        }),
        Word::ShrS16 => each(|i| ((a[i] as i16) >> b[i].min(15)) as u16 as u32),
        Word::Low16 => each(|i| a[i] & 0xffff),
        Word::High16 => each(|i| a[i] >> 16),
        Word::Pack16 => each(|i| a[i] & 0xffff | b[i] << 16),
        Word::SignExtend8 => each(|i| a[i] as i8 as u32),
        Word::SignExtend16 => each(|i| a[i] as i16 as u32),
        Word::ZeroExtend8 => each(|i| a[i] & 0xff),
        Word::MulWideS16 => each(|i| (i32::from(a[i] as i16) * i32::from(b[i] as i16)) as u32),
        _ => floating(op, a, b, c),
    }
}

#[inline(always)]
fn floating(op: Word, a_bits: &Lanes, b_bits: &Lanes, c_bits: &Lanes) -> Lanes {
    let (a, b, c) = (
        |i: usize| float_at(a_bits, i),
        |i: usize| float_at(b_bits, i),
        |i: usize| float_at(c_bits, i),
    );
    match op {
        Word::AddF => floats(|i| a(i) + b(i)),
        Word::SubF => floats(|i| a(i) - b(i)),
        Word::MulF => floats(|i| a(i) * b(i)),
        Word::FmaF => floats(|i| a(i).mul_add(b(i), c(i))),
        Word::DivF => floats(|i| a(i) / b(i)),
        Word::MinF => floats(|i| float::min(a(i), b(i))),
        Word::MaxF => floats(|i| float::max(a(i), b(i))),
        Word::NegF => floats(|i| -a(i)),
        Word::AbsF => floats(|i| a(i).abs()),
        Word::CopysignF => floats(|i| b(i).copysign(a(i))),
        Word::SubDownF => floats(|i| float::sub_down(a(i), b(i))),
        Word::SubUpF => floats(|i| float::sub_up(a(i), b(i))),
        Word::FmaDownF => floats(|i| float::fma_down(a(i), b(i), c(i))),
        Word::RcpF => floats(|i| 1.0 / a(i)),
        Word::RcpFlushF => floats(|i| float::flushed(1.0 / float::flushed(a(i)))),
        Word::SqrtF => floats(|i| a(i).sqrt()),
        Word::RsqrtF => floats(|i| (1.0 / f64::from(a(i)).sqrt()) as f32),
        Word::Exp2F => floats(|i| float::exp2(a(i))),
        Word::Exp2FlushF => floats(|i| float::flushed(float::exp2(float::flushed(a(i))))),
        Word::Log2F => floats(|i| a(i).log2()),
        Word::SaturateF => floats(|i| float::saturated(a(i))),
        Word::RoundZeroF => floats(|i| a(i).trunc()),
        Word::RoundEvenF => floats(|i| a(i).round_ties_even()),
        Word::RoundDownF => floats(|i| a(i).floor()),
        Word::RoundUpF => floats(|i| a(i).ceil()),
        Word::FToF16 => each(|i| float::f32_to_f16(a(i))),
        Word::FToBf16 => each(|i| float::f32_to_bf16(a(i))),
        Word::FToF16x2 => each(|i| float::f32_to_f16(a(i)) << 16 | float::f32_to_f16(b(i))),
        Word::FToBf16x2 => each(|i| float::f32_to_bf16(a(i)) << 16 | float::f32_to_bf16(b(i))),
        Word::FToSZero => each(|i| a(i) as i32 as u32),
        Word::FToSEven => each(|i| a(i).round_ties_even() as i32 as u32),
        Word::FToSDown => each(|i| a(i).floor() as i32 as u32),
        Word::FToUZero => each(|i| a(i) as u32),
        Word::FToUEven => each(|i| a(i).round_ties_even() as u32),
        _ => halves(op, a_bits, b_bits, c_bits),
    }
}

#[inline(always)]
fn halves(op: Word, a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    // Sums and products of 11 bits that are rounded twice are as if rounded once.
    match op {
        Word::F16ToF => floats(|i| float::f16_to_f32(a[i])),
        Word::Bf16ToF => floats(|i| float::bf16_to_f32(a[i])),
        Word::SToF => floats(|i| a[i] as i32 as f32),
        Word::UToF => floats(|i| a[i] as f32),
        Word::AddF16x2 => both_f16([a, b, c], |a, b, _| a + b),
        Word::SubF16x2 => both_f16([a, b, c], |a, b, _| a - b),
        Word::MulF16x2 => both_f16([a, b, c], |a, b, _| a * b),
        Word::FmaF16x2 => both_f16([a, b, c], float::product_and_sum),
        Word::AddBf16x2 => both_bf16([a, b, c], |a, b, _| a + b),
        Word::SubBf16x2 => both_bf16([a, b, c], |a, b, _| a - b),
        Word::MulBf16x2 => both_bf16([a, b, c], |a, b, _| a * b),
        Word::FmaBf16x2 => both_bf16([a, b, c], float::product_and_sum),
        _ => *a,
    }
}

/// An operation on both halves of words. One loop for each step, which becomes vectors.
#[inline(always)]
fn both_f16(from: [&Lanes; 3], f: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let [a, b, c] = from.map(|lanes| each(|i| float::f16_to_f32(lanes[i] & 0xffff).to_bits()));
    let low = each(|i| float::f32_to_f16(f(float_at(&a, i), float_at(&b, i), float_at(&c, i))));
    let [a, b, c] = from.map(|lanes| each(|i| float::f16_to_f32(lanes[i] >> 16).to_bits()));
    let high = each(|i| float::f32_to_f16(f(float_at(&a, i), float_at(&b, i), float_at(&c, i))));
    each(|i| low[i] | high[i] << 16)
}

/// As [`both_f16`].
#[inline(always)]
fn both_bf16(from: [&Lanes; 3], f: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let [a, b, c] = from.map(|lanes| each(|i| float::bf16_to_f32(lanes[i]).to_bits()));
    let low = each(|i| float::f32_to_bf16(f(float_at(&a, i), float_at(&b, i), float_at(&c, i))));
    let [a, b, c] = from.map(|lanes| each(|i| float::bf16_to_f32(lanes[i] >> 16).to_bits()));
    let high = each(|i| float::f32_to_bf16(f(float_at(&a, i), float_at(&b, i), float_at(&c, i))));
    each(|i| low[i] | high[i] << 16)
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
