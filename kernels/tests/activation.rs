//! Element-wise operations of the CPU backend against f64 arithmetic.
#![allow(unsafe_code)]

#[allow(dead_code)] // the other tests use the rest
mod support;

use ferrum_kernels::{
    Backend,
    cpu::{CpuBackend, CpuBuffer, Isa, detect},
    ops::{ActivationOps, Gelu},
};
use support::Random;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

unsafe extern "C" {
    /// The C library's complementary error function.
    safe fn erfc(x: f64) -> f64;
}

fn backends() -> impl Iterator<Item = CpuBackend> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
        .map(|isa| CpuBackend::with_isa(2, isa))
}

fn buffer(backend: &CpuBackend, values: &[f32]) -> CpuBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("it fits");
    buffer
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Asserts `|y - exact(x)| <= allowed(x, exact(x))` for every element.
fn check(
    backend: &CpuBackend,
    pairs: impl Iterator<Item = (f32, f32)>,
    exact: impl Fn(f64) -> f64,
    allowed: impl Fn(f64, f64) -> f64,
) {
    for (x, y) in pairs {
        let expected = exact(f64::from(x));
        let error = (f64::from(y) - expected).abs();
        let allowed = allowed(f64::from(x), expected);
        assert!(
            error <= allowed,
            "{}: f({x}) = {y}, exactly {expected}: off by {error:e}, {allowed:e} allowed",
            backend.isa()
        );
    }
}

/// Below this, results are flushed to zero with the exponential they are made of.
const FLUSHED: f64 = 1e-36;

fn arguments() -> Vec<f32> {
    (0..200_003).map(|i| (i as f32 - 100_000.0) * 2.5e-4).collect()
}

/// `sigmoid(a x)`: the exponential's 4 roundings and one of its argument (`u |a x|`, where it matters), the sum
/// and the quotient; then the product with `x`.
fn sigmoid_error(x: f64, expected: f64) -> f64 {
    (8.0 + 2.0 * x.abs()) * U * expected.abs() + FLUSHED
}

#[test]
fn every_gelu_matches_f64_arithmetic() {
    let x = arguments();
    for backend in backends() {
        let gelu = |kind| {
            let mut y = buffer(&backend, &x);
            backend.gelu(&mut y, kind, x.len()).expect("it fits");
            y
        };
        let pairs = |y: &CpuBuffer| x.iter().copied().zip(y.to_vec()).collect::<Vec<_>>().into_iter();
        let tail = |x: f64| 0.5 * erfc(x.abs() * std::f64::consts::FRAC_1_SQRT_2);
        // The tail: 4 u of the exponential, 2 u x^2 / 2 of its argument, about 10 u of the polynomial of ten
        // terms, its argument and the two quotients. The other side is one less the tail.
        check(
            &backend,
            pairs(&gelu(Gelu::Erf)),
            |x| x * if x < 0.0 { tail(x) } else { 1.0 - tail(x) },
            |x, expected| x.abs() * (16.0 + x * x) * U * tail(x) + 2.0 * U * expected.abs() + FLUSHED,
        );
        check(
            &backend,
            pairs(&gelu(Gelu::Quick)),
            |x| x * sigmoid(1.702 * x),
            |x, expected| sigmoid_error(1.702 * x, expected),
        );
        let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        // The argument `2 u(x)` is a product of four rounded factors: 4 more roundings of it.
        check(
            &backend,
            pairs(&gelu(Gelu::Tanh)),
            |x| x * sigmoid(2.0 * inner(x)),
            |x, expected| sigmoid_error(3.0 * 2.0 * inner(x), expected),
        );
    }
}

#[test]
fn silu_times_up_matches_f64_arithmetic_at_any_width() {
    for backend in backends() {
        for (rows, width) in [
            (1, 1),
            (3, 15),
            (2, 16),
            (5, 17),
            (1, 1536),
            (40, 1536),
            (2, 4864),
        ] {
            let mut random = Random(width as u64);
            let gate_up: Vec<f32> = (0..2 * rows * width).map(|_| 20.0 * random.unit()).collect();
            let mut out = buffer(&backend, &vec![f32::NAN; rows * width + 1]);
            backend
                .silu_mul(&buffer(&backend, &gate_up), rows, width, &mut out)
                .expect("it fits");
            assert!(out[rows * width].is_nan(), "written past the last row");
            for (at, &y) in out[..rows * width].iter().enumerate() {
                let gate = f64::from(gate_up[2 * width * (at / width) + at % width]);
                let up = f64::from(gate_up[2 * width * (at / width) + width + at % width]);
                let expected = gate * sigmoid(gate) * up;
                assert!(
                    (f64::from(y) - expected).abs() <= sigmoid_error(gate, expected) + U * expected.abs()
                );
            }
        }
    }
}

#[test]
fn an_element_has_the_same_bits_wherever_it_is() {
    for backend in backends() {
        let x = arguments();
        let mut all = buffer(&backend, &x);
        backend.gelu(&mut all, Gelu::Erf, x.len()).expect("it fits");
        for at in [0, 1, 77_777, 100_001, 200_002] {
            let mut one = buffer(&backend, &x[at..=at]);
            backend.gelu(&mut one, Gelu::Erf, 1).expect("it fits");
            assert_eq!(one[0].to_bits(), all[at].to_bits());
        }
    }
}

#[test]
fn sums_and_moves_of_rows_are_exact() {
    for backend in backends() {
        let mut random = Random(5);
        let (rows, width) = (70, 333);
        let x: Vec<f32> = (0..rows * width).map(|_| random.unit()).collect();
        let y: Vec<f32> = (0..rows * width).map(|_| random.unit()).collect();
        let source = buffer(&backend, &x);
        let mut sum = buffer(&backend, &y);
        backend.add(&source, &mut sum, rows * width).expect("it fits");
        assert!((0..rows * width).all(|i| sum[i] == x[i] + y[i]));

        let picks: Vec<u32> = (0..2 * rows).map(|_| random.below(rows) as u32).collect();
        let mut indices = backend.alloc_indices(picks.len()).expect("memory");
        backend.write_indices(&picks, &mut indices).expect("it fits");
        let mut out = buffer(&backend, &vec![f32::NAN; 2 * rows * width]);
        backend
            .gather_rows(&source, &indices, picks.len(), width, &mut out)
            .expect("rows of x");
        for (row, pick) in out.chunks_exact(width).zip(picks) {
            assert_eq!(row, &x[pick as usize * width..][..width]);
        }
    }
}

#[test]
fn a_row_that_is_not_there_is_refused() {
    let backend = CpuBackend::new(1);
    let x = buffer(&backend, &[0.0; 30]);
    let mut indices = backend.alloc_indices(1).expect("memory");
    backend.write_indices(&[3], &mut indices).expect("it fits");
    let mut out = buffer(&backend, &[0.0; 10]);
    let error = backend
        .gather_rows(&x, &indices, 1, 10, &mut out)
        .expect_err("three rows");
    assert!(error.to_string().contains("no row 3 of width 10"));
}
