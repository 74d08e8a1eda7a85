//! Arithmetic of single values: what the CPU's own instructions do not do as a GPU's do.
//!
//! Everything is without branches where it can be, so that loops over lanes become vectors.

/// The number that a GPU gives for "not a number".
const NAN: u32 = 0x7fff_ffff;

/// One of two, without a branch.
#[inline(always)]
fn select(first: bool, a: u32, b: u32) -> u32 {
    let mask = u32::from(first).wrapping_neg();
    a & mask | b & !mask
}

#[inline(always)]
pub(crate) fn f16_to_f32(bits: u32) -> f32 {
    /// The difference of the exponents' biases.
    const BIAS: u32 = 112 << 23;
    let sign = (bits & 0x8000) << 16;
    let body = (bits & 0x7fff) << 13;
    // A subnormal number is what is above 2^-14 with its last bits. Without subnormal operands, which are slow.
    let small = (f32::from_bits(body + BIAS + (1 << 23)) - f32::from_bits(BIAS + (1 << 23))).to_bits();
    let normal = select(bits & 0x7c00 == 0, small, body + BIAS);
    f32::from_bits(sign | select(bits & 0x7c00 == 0x7c00, body | 0x7f80_0000, normal))
}

#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// To the nearest, of two to the even one.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u32 {
    let bits = value.to_bits();
    let (sign, body) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let rounded = body.wrapping_add(0xc800_0fff).wrapping_add(body >> 13 & 1) >> 13;
    // Adding 0.5 leaves multiples of 2^-24 as the last bits: a subnormal number's.
    let small = (f32::from_bits(body) + 0.5)
        .to_bits()
        .wrapping_sub(0.5_f32.to_bits());
    let normal = select(body < 0x3880_0000, small, rounded);
    let large = select(body >= 0x4780_0000, 0x7c00, normal);
    select(body > 0x7f80_0000, 0x7fff, sign | large)
}

/// To the nearest, of two to the even one.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) >> 16;
    select(bits & 0x7fff_ffff > 0x7f80_0000, 0x7fff, rounded)
}

/// `a * b + c`, exact but for bits too small for a later rounding to at most 11 bits: they are in the last bit. For a
/// product that is exact in f32.
#[inline(always)]
pub(super) fn product_and_sum(a: f32, b: f32, c: f32) -> f32 {
    let product = a * b;
    let sum = product + c;
    let of_c = sum - product;
    let error = (product - (sum - of_c)) + (c - of_c);
    let bits = sum.to_bits();
    let away = (error > 0.0) == (sum > 0.0);
    let odd = if away {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    // An error that is not a number is not below or above 0.
    let inexact = (error < 0.0) | (error > 0.0);
    let even = bits & 1 == 0;
    f32::from_bits(select(inexact & even, odd, bits))
}

/// The smaller one; a number rather than none.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let less = if a < b { x } else { y };
    // Equal, or zeros of different signs.
    let ordered = if a == b { x | y } else { less };
    let of_a = if b.is_nan() { x } else { ordered };
    let any = if a.is_nan() { y } else { of_a };
    f32::from_bits(if a.is_nan() && b.is_nan() { NAN } else { any })
}

/// The larger one; a number rather than none.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let more = if a > b { x } else { y };
    let ordered = if a == b { x & y } else { more };
    let of_a = if b.is_nan() { x } else { ordered };
    let any = if a.is_nan() { y } else { of_a };
    f32::from_bits(if a.is_nan() && b.is_nan() { NAN } else { any })
}

/// 2^x.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    /// Adding it rounds to whole numbers.
    const ROUND: f32 = 12_582_912.0;
    let clamped = f32::from_bits(select(x < -160.0, (-160.0_f32).to_bits(), x.to_bits()));
    let clamped = f32::from_bits(select(clamped > 130.0, 130.0_f32.to_bits(), clamped.to_bits()));
    let whole = clamped + ROUND;
    let exponent = whole.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let rest = clamped - (whole - ROUND);
    // The series of 2^rest, |rest| <= 0.5: ln(2)^k / k!.
    let sum = 1.525_273_4e-5 * rest + 1.540_353e-4;
    let sum = sum * rest + 1.333_355_8e-3;
    let sum = sum * rest + 9.618_129e-3;
    let sum = sum * rest + 5.550_411e-2;
    let sum = sum * rest + 2.402_265e-1;
    let sum = sum * rest + std::f32::consts::LN_2;
    let sum = sum * rest + 1.0;
    // In two steps: neither leaves the range of exponents of normal numbers.
    let half = exponent >> 1;
    let first = f32::from_bits(((half + 127) << 23) as u32);
    let second = f32::from_bits(((exponent - half + 127) << 23) as u32);
    let result = sum * first * second;
    f32::from_bits(select(x.is_nan(), NAN, result.to_bits()))
}

/// Zero for numbers too small to be normal.
#[inline(always)]
pub(super) fn flushed(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    })
}

/// Between 0 and 1.
#[inline(always)]
pub(super) fn saturated(x: f32) -> f32 {
    let above = if x > 0.0 { x } else { 0.0 };
    if above > 1.0 { 1.0 } else { above }
}

/// A sum in f64, and what is missing of it.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// The largest number that is not above `sum + rest`.
#[inline(always)]
fn down(sum: f64, rest: f64) -> f32 {
    let near = sum as f32;
    let above = f64::from(near) > sum || (f64::from(near) == sum && rest < 0.0);
    if above { near.next_down() } else { near }
}

/// `a * b + c` rounded down.
#[inline(always)]
pub(super) fn fma_down(a: f32, b: f32, c: f32) -> f32 {
    let (sum, rest) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    down(sum, rest)
}

/// `a - b` rounded down.
#[inline(always)]
pub(super) fn sub_down(a: f32, b: f32) -> f32 {
    let (sum, rest) = two_sum(f64::from(a), -f64::from(b));
    down(sum, rest)
}

/// `a - b` rounded up.
#[inline(always)]
pub(super) fn sub_up(a: f32, b: f32) -> f32 {
    -sub_down(b, a)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn conversions_of_16_bits_are_those_of_a_library() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            if !half.is_nan() {
                assert_eq!(f16_to_f32(bits.into()).to_bits(), half.to_f32().to_bits());
            }
            if !brain.is_nan() {
                assert_eq!(bf16_to_f32(bits.into()).to_bits(), brain.to_f32().to_bits());
            }
        }
        for i in 0..4_000_000_u32 {
            let value = f32::from_bits(i.wrapping_mul(2_654_435_761));
            if !value.is_nan() {
                assert_eq!(
                    f32_to_f16(value),
                    f16::from_f32(value).to_bits().into(),
                    "{value}"
                );
                assert_eq!(
                    f32_to_bf16(value),
                    bf16::from_f32(value).to_bits().into(),
                    "{value}"
                );
            }
        }
        assert_eq!((f32_to_f16(f32::NAN), f32_to_bf16(-f32::NAN)), (0x7fff, 0x7fff));
    }

    #[test]
    fn products_and_sums_of_16_bits_are_rounded_once() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..1_000_000 {
            let [a, b, c] = [random(), random(), random()];
            let [x, y, z] = [a, b, c].map(f16_to_f32);
            // Numbers of 11 bits whose product's and sum's exponents are near enough are exact in f64.
            let exact = f64::from(x) * f64::from(y) + f64::from(z);
            if exact.is_finite() {
                // The library rounds twice: the nearest is among its answer and the neighbours of that.
                let near = f16::from_f64(exact).to_bits();
                let distance = |bits: u16| (f16::from_bits(bits).to_f64() - exact).abs();
                let best = [near, near.wrapping_sub(1), near.wrapping_add(1)].into_iter();
                let best = best.filter(|&bits| f16::from_bits(bits).is_finite());
                let best = best.min_by(|&a, &b| {
                    let order = distance(a).total_cmp(&distance(b));
                    order.then((a & 1).cmp(&(b & 1)))
                });
                let result = f32_to_f16(product_and_sum(x, y, z));
                if exact.abs() < 65504.0 {
                    assert_eq!(Some(result), best.map(u32::from), "{x} {y} {z}");
                }
            }
        }
    }

    #[test]
    fn powers_of_two_and_directed_roundings_are_near() {
        for i in -1500..1280 {
            let x = i as f32 / 10.0;
            let expected = f64::from(x).exp2() as f32;
            // The hardware's own has an error of up to two places.
            let near = expected.next_up().next_up() - expected;
            assert!((exp2(x) - expected).abs() <= near, "{x}");
        }
        assert_eq!((exp2(-200.0), exp2(200.0)), (0.0, f32::INFINITY));
        assert_eq!(sub_down(1.0, 1e-20), 1.0_f32.next_down());
        assert_eq!(sub_up(1.0, -1e-20), 1.0_f32.next_up());
        assert_eq!(sub_up(1.0, 1e-20), 1.0);
        assert_eq!(fma_down(0.5, 0.5, 12_582_912.0), 12_582_912.0);
        assert_eq!(fma_down(0.5, -0.5, 12_582_912.0), 12_582_911.0);
    }
}
