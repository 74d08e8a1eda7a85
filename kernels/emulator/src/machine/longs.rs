//! Operations of lanes on 64-bit values, and comparisons.

use super::words::float_at;
use crate::ptx::{Compare, Extend, Kind, Long, Reduce, SHARED_WINDOW, Shift};

/// A 64-bit register of each lane of a warp.
pub(super) type WideLanes = [u64; 32];

/// Whether an operation of all lanes takes much longer than one of a single lane.
#[inline(always)]
pub(super) fn is_slow(op: Long) -> bool {
    !matches!(
        op,
        Long::Mov | Long::Add | Long::Sub | Long::And | Long::Or | Long::Xor | Long::Not
    )
}

/// What an operation makes of up to three 64-bit values.
#[inline(never)]
pub(super) fn one(op: Long, [a, b, c]: [u64; 3]) -> u64 {
    let [value] = long(op, &[a], &[b], &[c]);
    value
}

/// What an operation makes of up to three 64-bit values of each lane.
#[inline(always)]
pub(super) fn long<const N: usize>(op: Long, a: &[u64; N], b: &[u64; N], c: &[u64; N]) -> [u64; N] {
    match op {
        Long::Mov => *a,
        Long::Add => each!(|i| a[i].wrapping_add(b[i])),
        Long::Sub => each!(|i| a[i].wrapping_sub(b[i])),
        Long::Mul => each!(|i| a[i].wrapping_mul(b[i])),
        Long::Mad => each!(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
        Long::And => each!(|i| a[i] & b[i]),
        Long::Or => each!(|i| a[i] | b[i]),
        Long::Xor => each!(|i| a[i] ^ b[i]),
        Long::Not => each!(|i| !a[i]),
        _ => rare(op, a, b, c),
    }
}

fn rare<const N: usize>(op: Long, a: &[u64; N], b: &[u64; N], c: &[u64; N]) -> [u64; N] {
    let (x, y, z) = (
        |i: usize| f64::from_bits(a[i]),
        |i: usize| f64::from_bits(b[i]),
        |i: usize| f64::from_bits(c[i]),
    );
    match op {
        Long::MulHiS => each!(|i| ((i128::from(a[i] as i64) * i128::from(b[i] as i64)) >> 64) as u64),
        Long::MulHiU => each!(|i| ((u128::from(a[i]) * u128::from(b[i])) >> 64) as u64),
        Long::DivS => each!(|i| (a[i] as i64).checked_div(b[i] as i64).unwrap_or(-1) as u64),
        Long::DivU => each!(|i| a[i].checked_div(b[i]).unwrap_or(u64::MAX)),
        Long::RemS => each!(|i| (a[i] as i64).checked_rem(b[i] as i64).unwrap_or(0) as u64),
        Long::RemU => each!(|i| a[i].checked_rem(b[i]).unwrap_or(a[i])),
        Long::MinS => each!(|i| (a[i] as i64).min(b[i] as i64) as u64),
        Long::MinU => each!(|i| a[i].min(b[i])),
        Long::MaxS => each!(|i| (a[i] as i64).max(b[i] as i64) as u64),
        Long::MaxU => each!(|i| a[i].max(b[i])),
        Long::NegS => each!(|i| a[i].wrapping_neg()),
        Long::FromShared => each!(|i| a[i] | SHARED_WINDOW),
        Long::ToShared => each!(|i| a[i] & !SHARED_WINDOW),
        Long::AddF => each!(|i| (x(i) + y(i)).to_bits()),
        Long::SubF => each!(|i| (x(i) - y(i)).to_bits()),
        Long::MulF => each!(|i| (x(i) * y(i)).to_bits()),
        Long::FmaF => each!(|i| (x(i).mul_add(y(i), z(i))).to_bits()),
        Long::DivF => each!(|i| (x(i) / y(i)).to_bits()),
        Long::MinF => each!(|i| (x(i).min(y(i))).to_bits()),
        Long::MaxF => each!(|i| (x(i).max(y(i))).to_bits()),
        Long::NegF => each!(|i| (-x(i)).to_bits()),
        Long::AbsF => each!(|i| (x(i).abs()).to_bits()),
        Long::RcpF => each!(|i| (1.0 / x(i)).to_bits()),
        Long::SqrtF => each!(|i| (x(i).sqrt()).to_bits()),
        Long::RoundUpF => each!(|i| (x(i).ceil()).to_bits()),
        Long::RoundDownF => each!(|i| (x(i).floor()).to_bits()),
        Long::RoundZeroF => each!(|i| (x(i).trunc()).to_bits()),
        Long::RoundEvenF => each!(|i| (x(i).round_ties_even()).to_bits()),
        Long::UToF => each!(|i| (a[i] as f64).to_bits()),
        Long::SToF => each!(|i| (a[i] as i64 as f64).to_bits()),
        Long::FToUZero => each!(|i| x(i) as u64),
        Long::FToSZero => each!(|i| x(i) as i64 as u64),
        _ => *a,
    }
}

#[inline(always)]
pub(super) fn shift<const N: usize>(op: Shift, a: &[u64; N], by: &[u32; N]) -> [u64; N] {
    match op {
        Shift::Left => each!(|i| if by[i] < 64 { a[i] << (by[i] & 63) } else { 0 }),
        Shift::RightU => each!(|i| if by[i] < 64 { a[i] >> (by[i] & 63) } else { 0 }),
        Shift::RightS => each!(|i| ((a[i] as i64) >> by[i].min(63)) as u64),
    }
}

#[inline(always)]
pub(super) fn extend<const N: usize>(op: Extend, a: &[u32; N], b: &[u32; N]) -> [u64; N] {
    match op {
        Extend::Signed => each!(|i| a[i] as i32 as u64),
        Extend::Unsigned => each!(|i| a[i].into()),
        Extend::MulS => each!(|i| (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64),
        Extend::MulU => each!(|i| u64::from(a[i]) * u64::from(b[i])),
        Extend::Pack => each!(|i| u64::from(b[i]) << 32 | u64::from(a[i])),
        Extend::FToF => each!(|i| f64::from(float_at(a, i)).to_bits()),
        Extend::SToF => each!(|i| f64::from(a[i] as i32).to_bits()),
        Extend::UToF => each!(|i| f64::from(a[i]).to_bits()),
        Extend::FToUEven => each!(|i| float_at(a, i).round_ties_even() as u64),
        Extend::FToUZero => each!(|i| float_at(a, i) as u64),
        Extend::FToSEven => each!(|i| float_at(a, i).round_ties_even() as i64 as u64),
        Extend::FToSZero => each!(|i| float_at(a, i) as i64 as u64),
    }
}

#[inline(always)]
pub(super) fn reduce<const N: usize>(op: Reduce, a: &[u64; N]) -> [u32; N] {
    let x = |i: usize| f64::from_bits(a[i]);
    match op {
        Reduce::Low => each!(|i| a[i] as u32),
        Reduce::High => each!(|i| (a[i] >> 32) as u32),
        Reduce::Low16 => each!(|i| a[i] as u32 & 0xffff),
        Reduce::FToF => each!(|i| (x(i) as f32).to_bits()),
        Reduce::SToF => each!(|i| (a[i] as i64 as f32).to_bits()),
        Reduce::UToF => each!(|i| (a[i] as f32).to_bits()),
        Reduce::FToSZero => each!(|i| x(i) as i32 as u32),
        Reduce::FToUZero => each!(|i| x(i) as u32),
        Reduce::Popc => each!(|i| a[i].count_ones()),
        Reduce::Clz => each!(|i| a[i].leading_zeros()),
    }
}

/// A bit for each lane that an expression holds for.
macro_rules! bits {
    (|$lane:ident| $value:expr) => {{
        let found: [u32; N] = each!(|$lane| u32::from($value));
        let mut bits = 0;
        for (lane, found) in found.into_iter().enumerate() {
            bits |= found << lane;
        }
        bits
    }};
}

/// A comparison of what two expressions are for each lane.
macro_rules! compare {
    ($op:expr, |$i:ident| $a:expr, $b:expr) => {{
        let op = $op;
        let (op, negated) = match op {
            Compare::EqU => (Compare::Ne, true),
            Compare::NeU => (Compare::Eq, true),
            Compare::LtU => (Compare::Ge, true),
            Compare::LeU => (Compare::Gt, true),
            Compare::GtU => (Compare::Le, true),
            Compare::GeU => (Compare::Lt, true),
            Compare::Nan => (Compare::Num, true),
            op => (op, false),
        };
        let bits = match op {
            Compare::Eq => bits!(|$i| $a == $b),
            Compare::Ne => bits!(|$i| ($a < $b) | ($a > $b)),
            Compare::Lt => bits!(|$i| $a < $b),
            Compare::Le => bits!(|$i| $a <= $b),
            Compare::Gt => bits!(|$i| $a > $b),
            Compare::Ge => bits!(|$i| $a >= $b),
            _ => bits!(|$i| ($a <= $b) | ($a > $b)),
        };
        if negated { !bits } else { bits }
    }};
}

#[inline(always)]
pub(super) fn compare_words<const N: usize>(op: Compare, kind: Kind, a: &[u32; N], b: &[u32; N]) -> u32 {
    match kind {
        Kind::Signed => compare!(op, |i| (a[i] as i32), (b[i] as i32)),
        Kind::Signed16 => compare!(op, |i| (a[i] as i16), (b[i] as i16)),
        Kind::Unsigned => compare!(op, |i| a[i], b[i]),
        Kind::Float => compare!(op, |i| float_at(a, i), float_at(b, i)),
    }
}

#[inline(always)]
pub(super) fn compare_wides<const N: usize>(op: Compare, kind: Kind, a: &[u64; N], b: &[u64; N]) -> u32 {
    match kind {
        Kind::Signed | Kind::Signed16 => compare!(op, |i| (a[i] as i64), (b[i] as i64)),
        Kind::Unsigned => compare!(op, |i| a[i], b[i]),
        Kind::Float => compare!(op, |i| f64::from_bits(a[i]), f64::from_bits(b[i])),
    }
}
