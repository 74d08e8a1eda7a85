use super::{Kernel, LANES, Lanes, exp, exp2, math, normal_cdf};
use crate::cpu::{CpuBackend, Isa, detect};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
}

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Exp2,
    NormalCdf,
}

struct Map<'a> {
    function: Function,
    x: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for x in self.x.chunks_mut(LANES) {
            let v = s.load_partial(x, 0.0);
            let y = match self.function {
                Function::Exp => exp(s, v),
                Function::Exp2 => exp2(s, v),
                Function::NormalCdf => normal_cdf(s, v),
            };
            s.store_partial(y, x);
        }
    }
}

fn map(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
    let mut y = x.to_vec();
    CpuBackend::with_isa(1, isa).vectorize(Map { function, x: &mut y });
    y
}

/// About a million arguments from `from` to `to`, a stride of representable numbers apart.
fn arguments(from: f32, to: f32) -> Vec<f32> {
    (0..1 << 20)
        .map(|i| from + (to - from) * (i as f32 / (1 << 20) as f32))
        .collect()
}

/// The truncation error of a polynomial `p` for `e^(rate x)`, `|x| <= limit`, proven in f64: on a grid, and
/// between its points by the bound on the derivative of `p(x) e^(-rate x) - 1`, which is
/// `(p' - rate p) e^(-rate x)`, a polynomial with small coefficients.
fn truncation(p: &[f64], rate: f64, limit: f64) -> f64 {
    let slope: f64 = (0..p.len())
        .map(|k| {
            let next = p.get(k + 1).map_or(0.0, |c| c * (k + 1) as f64);
            (next - rate * p[k]).abs() * limit.powi(k as i32) * (rate * limit).exp()
        })
        .sum();
    let steps = 100_000;
    let on_grid = (0..=steps)
        .map(|i| limit * (2.0 * f64::from(i) / f64::from(steps) - 1.0))
        .map(|x| (p.iter().rev().fold(0.0, |sum, c| sum * x + c) / (rate * x).exp() - 1.0).abs())
        .fold(0.0, f64::max);
    on_grid + slope * limit / f64::from(steps)
}

#[test]
fn the_polynomials_of_the_exponentials_are_within_2_to_the_minus_26() {
    let ln_2 = std::f64::consts::LN_2;
    let ascending = |head: &[f64], tail: &[f32]| -> Vec<f64> {
        let tail = tail.iter().rev().map(|&c| f64::from(c));
        head.iter().copied().chain(tail).collect()
    };
    // Rounding may leave the reduced argument a little outside of its range.
    let exp = truncation(&ascending(&[1.0, 1.0], &math::EXP), 1.0, 0.5001 * ln_2);
    assert!(exp < U / 4.0, "{exp:e}");
    let exp2 = truncation(&ascending(&[1.0], &math::EXP2), ln_2, 0.5);
    assert!(exp2 < U / 4.0, "{exp2:e}");
}

/// Rounding, in units of `u = 2^-24` relative to `e^r >= 0.7`: the reduced argument 0.8 (its rounding and that
/// of ln 2, times `|r| <= 0.35`); `r^2 q` 0.4 and the sum with `r` 0.6; the sum with 1 rounds once more, 1; the
/// truncation 0.25. Without a fused multiply-add each product rounds, 0.6 more. Together below 4. (`2^x` has an
/// exact reduced argument and the same terms otherwise.)
#[test]
fn exponentials_are_within_four_roundings() {
    for isa in isas() {
        let x = arguments(-87.3, 88.3);
        for (x, y) in x.iter().zip(map(isa, Function::Exp, &x)) {
            let error = (f64::from(y) / f64::from(*x).exp() - 1.0).abs();
            assert!(error <= 4.0 * U, "{isa}: e^{x} = {y}, off by {:.1} u", error / U);
        }
        let x = arguments(-126.0, 127.0);
        for (x, y) in x.iter().zip(map(isa, Function::Exp2, &x)) {
            let error = (f64::from(y) / f64::from(*x).exp2() - 1.0).abs();
            assert!(error <= 4.0 * U, "{isa}: 2^{x} = {y}, off by {:.1} u", error / U);
        }
    }
}

#[test]
fn exponentials_keep_to_their_limits() {
    let x = [f32::NAN, f32::NEG_INFINITY, -1e30, 0.0, -0.0];
    for isa in isas() {
        for function in [Function::Exp, Function::Exp2] {
            let y = map(isa, function, &x);
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..], [0.0, 0.0, 1.0, 1.0], "{isa}");
        }
        let y = map(isa, Function::Exp, &[1e30, f32::INFINITY]);
        assert_eq!(y, [f32::INFINITY; 2], "{isa}");
    }
}

#[test]
fn avx2_and_avx512_give_the_same_bits() {
    if detect() < Isa::Avx512 {
        return;
    }
    let x = arguments(-20.0, 20.0);
    for function in [Function::Exp, Function::Exp2, Function::NormalCdf] {
        assert!(map(Isa::Avx2, function, &x) == map(Isa::Avx512, function, &x));
    }
}

struct Reduce<'a> {
    x: &'a [f32; LANES],
}

impl Kernel for Reduce<'_> {
    type Output = (f32, f32, bool);

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> (f32, f32, bool) {
        let v = s.load(self.x);
        (s.sum(v), s.max_lane(v), s.any_gt(v, s.splat(99.0)))
    }
}

#[test]
fn lanes_are_reduced_alike_on_every_instruction_set() {
    let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 * 0.7).sin() * 100.0);
    for isa in isas() {
        let (sum, max, any) = CpuBackend::with_isa(1, isa).vectorize(Reduce { x: &x });
        let (expected, largest, _) = CpuBackend::with_isa(1, Isa::Portable).vectorize(Reduce { x: &x });
        assert_eq!((sum, max), (expected, largest), "{isa}");
        assert_eq!(any, x.iter().any(|&x| x > 99.0), "{isa}");
        let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
        assert!(
            (f64::from(sum) - exact).abs() <= 4.0 * U * x.iter().map(|&x| f64::from(x.abs())).sum::<f64>()
        );
    }
}

struct Halves<'a> {
    x: &'a [f32; LANES],
}

impl Kernel for Halves<'_> {
    type Output = ([u16; LANES], [f32; LANES]);

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Self::Output {
        let (mut bits, mut back) = ([0; LANES], [0.0; LANES]);
        s.store_f16(s.load(self.x), &mut bits);
        s.store(s.load_f16(&bits), &mut back);
        (bits, back)
    }
}

#[test]
fn half_precision_rounds_as_the_half_crate_does() {
    for isa in isas() {
        for start in 0..2000_u32 {
            let x: [f32; LANES] = std::array::from_fn(|i| {
                // Every exponent and sign, odd mantissas.
                f32::from_bits((start * 16 + i as u32).wrapping_mul(0x9e37_79b9))
            });
            let x = x.map(|x| if x.is_nan() { 1.0 } else { x });
            let (bits, back) = CpuBackend::with_isa(1, isa).vectorize(Halves { x: &x });
            let expected = x.map(half::f16::from_f32);
            assert_eq!(bits, expected.map(half::f16::to_bits), "{isa}: {x:?}");
            assert_eq!(back, expected.map(half::f16::to_f32), "{isa}");
        }
    }
}
