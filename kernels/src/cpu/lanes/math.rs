//! Elementary functions on vectors. Their error bounds are derived and checked in the tests beside.

use crate::cpu::lanes::Lanes;

/// Coefficients of `q` in `e^r = 1 + r + r^2 q(r)`, highest first: the Chebyshev approximation of degree 4 on
/// `|r| <= ln(2) / 2`, rounded to f32. With them `e^r` is off by at most 2^-26.
pub(super) const EXP: [f32; 5] = [1.392_621_3e-3, 8.363_203e-3, 4.166_655_6e-2, 1.666_657_6e-1, 0.5];

/// Coefficients of `q` in `2^f = 1 + f q(f)`, highest first: the Chebyshev approximation of degree 5 on
/// `|f| <= 1/2`, rounded to f32. With them `2^f` is off by at most 2^-26.
pub(super) const EXP2: [f32; 6] = [
    1.545_316_3e-4,
    1.339_086_3e-3,
    9.618_083e-3,
    5.550_357e-2,
    2.402_265e-1,
    std::f32::consts::LN_2,
];

/// Coefficients of `(1 + 2t) e^(t^2) erfc(t)` in `u = (t - 2) / (t + 2)`, highest first: the Chebyshev
/// approximation of degree 9 for `0 <= t <= 12`, rounded to f32; off by at most 2^-24 of the value.
const ERFC: [f32; 10] = [
    -4.050_717_7e-4,
    -1.225_616_8e-3,
    1.333_414_6e-3,
    8.635_412e-3,
    -8.072_813e-3,
    -5.420_799e-2,
    1.640_579_7e-1,
    -1.660_308_1e-1,
    -9.276_412e-2,
    1.276_978_4,
];

/// `2^x` for `x <= 127`; 0 below -126, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2<S: Lanes>(s: S, x: S::V) -> S::V {
    let n = s.round(x);
    let f = s.sub(x, n);
    let power = s.mul_add(f, polynomial(s, &EXP2, f), s.splat(1.0));
    s.select_lt(x, s.splat(-126.0), s.splat(0.0), s.scale(power, n))
}

/// `e^x`; 0 below -87.33, infinity above 88.72 (or already 88.37), NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Lanes>(s: S, x: S::V) -> S::V {
    // ln(2) in two parts, the first short enough that its product with `n` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let lowest = s.splat(-87.33);
    let clamped = s.min(s.splat(89.0), s.max(lowest, x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN_2_HIGH), clamped);
    let r = s.mul_add(n, s.splat(-LN_2_LOW), r);
    s.select_lt(x, lowest, s.splat(0.0), s.scale(exp_reduced(s, r), n))
}

/// `Phi(x)`, the standard normal distribution function; its relative error stays small in the lower tail.
#[inline(always)]
pub(crate) fn normal_cdf<S: Lanes>(s: S, x: S::V) -> S::V {
    let magnitude = s.max(s.sub(s.splat(0.0), x), x);
    let t = s.mul(magnitude, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let two = s.splat(2.0);
    let u = s.div(s.sub(t, two), s.add(t, two));
    let scaled = polynomial(s, &ERFC, u);
    // erfc(t) / 2 = scaled * e^(-x^2 / 2) / (2 + 4t)
    let gauss = exp(s, s.mul(s.mul(x, s.splat(-0.5)), x));
    let tail = s.div(s.mul(scaled, gauss), s.mul_add(t, s.splat(4.0), two));
    s.select_lt(x, s.splat(0.0), tail, s.sub(s.splat(1.0), tail))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Lanes>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `e^r` for `|r| <= ln(2) / 2`.
#[inline(always)]
fn exp_reduced<S: Lanes>(s: S, r: S::V) -> S::V {
    let q = polynomial(s, &EXP, r);
    let tail = s.mul_add(s.mul(r, r), q, r);
    s.add(s.splat(1.0), tail)
}

/// Horner's rule, highest coefficient first.
#[inline(always)]
fn polynomial<S: Lanes, const N: usize>(s: S, coefficients: &[f32; N], x: S::V) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = s.mul_add(sum, x, s.splat(c));
    }
    sum
}
