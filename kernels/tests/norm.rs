//! Norms of the CPU backend against f64 arithmetic.

#[allow(dead_code)] // the other tests use the rest
mod support;

use ferrum_kernels::{
    Backend,
    cpu::{CpuBackend, CpuBuffer, Isa, detect},
    ops::{ActivationOps, HeadLayout, NormOps},
};
use support::Random;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Widths of MiniLM, SmolLM2, Qwen; odd ones; fewer elements than a vector has lanes.
const SHAPES: [(usize, usize); 9] = [
    (1, 576),
    (7, 384),
    (300, 576),
    (2, 896),
    (5, 1024),
    (3, 64),
    (3, 1),
    (4, 15),
    (9, 199),
];

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

/// Relative error of a sum of `n` terms of one sign: 64 partial sums (4 vectors of 16 lanes), then 6 additions;
/// each term was rounded once.
fn sum_error(n: usize) -> f64 {
    (n.div_ceil(64) + 8) as f64 * U
}

/// `x / sqrt(mean(x^2) + eps) * weight`, and how far f32 may be off: half the error of the sum under the root,
/// and 5 roundings (quotient, sum, root, reciprocal, and half of those) and 2 products.
fn exact_rms(x: &[f32], weight: &[f32], eps: f32) -> Vec<(f64, f64)> {
    let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    let relative = sum_error(x.len()) / 2.0 + 7.0 * U;
    x.iter()
        .zip(weight)
        .map(|(&x, &weight)| {
            let y = f64::from(x) * scale * f64::from(weight);
            (y, y.abs() * relative)
        })
        .collect()
}

/// `(x - mean) / sqrt(var + eps) * weight + bias`, and how far f32 may be off. The mean is off by the error of
/// its sum (of terms of both signs, so relative to their magnitudes); that moves the variance by its square
/// only. The deviation rounds once, the scale is off as for the RMS norm, two products, one sum.
fn exact_layer(x: &[f32], (weight, bias): (&[f32], &[f32]), eps: f32) -> Vec<(f64, f64)> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let magnitude = x.iter().map(|&x| f64::from(x.abs())).sum::<f64>() / n;
    let scale = 1.0 / (var + f64::from(eps)).sqrt();
    let mean_error = (sum_error(x.len()) + U) * magnitude;
    let relative = sum_error(x.len()) / 2.0 + 9.0 * U + (mean_error * scale).powi(2);
    x.iter()
        .zip(weight.iter().zip(bias))
        .map(|(&x, (&weight, &bias))| {
            let deviation = f64::from(x) - mean;
            let weight = f64::from(weight);
            let y = deviation * scale * weight + f64::from(bias);
            let product = (deviation * scale * weight).abs();
            let allowed = mean_error * scale * weight.abs() + product * relative + U * y.abs();
            (y, allowed)
        })
        .collect()
}

fn check(isa: Isa, out: &[f32], expected: &[(f64, f64)]) {
    for (at, (out, (exact, allowed))) in out.iter().zip(expected).enumerate() {
        let error = (f64::from(*out) - exact).abs();
        assert!(
            error <= *allowed,
            "{isa}: element {at} is {out}, exactly {exact}: off by {error:e}, {allowed:e} allowed"
        );
    }
}

#[test]
fn rms_norm_matches_f64_arithmetic() {
    for backend in backends() {
        for (rows, width) in SHAPES {
            let mut random = Random(width as u64);
            let (x, weight) = (random.activations(rows * width), random.activations(width));
            let mut out = buffer(&backend, &vec![f32::NAN; rows * width]);
            backend
                .rms_norm(
                    &buffer(&backend, &x),
                    &buffer(&backend, &weight),
                    1e-5,
                    (rows, width),
                    &mut out,
                )
                .expect("it fits");
            for (out, x) in out.chunks_exact(width).zip(x.chunks_exact(width)) {
                check(backend.isa(), out, &exact_rms(x, &weight, 1e-5));
            }
        }
    }
}

#[test]
fn layer_norm_matches_f64_arithmetic_also_far_from_zero() {
    for backend in backends() {
        for (rows, width) in SHAPES {
            let mut random = Random(width as u64);
            let offset = 100.0 * random.unit();
            let x: Vec<f32> = random
                .activations(rows * width)
                .iter()
                .map(|x| x + offset)
                .collect();
            let (weight, bias) = (random.activations(width), random.activations(width));
            let mut out = buffer(&backend, &vec![f32::NAN; rows * width]);
            let affine = (&buffer(&backend, &weight), &buffer(&backend, &bias));
            backend
                .layer_norm(&buffer(&backend, &x), affine, 1e-12, (rows, width), &mut out)
                .expect("it fits");
            // The variance of one element is 0: only the bias is left.
            for (out, x) in out
                .chunks_exact(width)
                .zip(x.chunks_exact(width))
                .filter(|_| width > 1)
            {
                check(backend.isa(), out, &exact_layer(x, (&weight, &bias), 1e-12));
            }
            assert!(width > 1 || out.iter().all(|&y| y == bias[0]));
        }
    }
}

#[test]
fn the_fused_sum_and_norm_gives_the_bits_of_the_two_operations() {
    for backend in backends() {
        for (rows, width) in SHAPES {
            let mut random = Random(width as u64);
            let x = buffer(&backend, &random.activations(rows * width));
            let weight = buffer(&backend, &random.activations(width));
            let before = random.activations(rows * width);
            let mut residuals = [buffer(&backend, &before), buffer(&backend, &before)];
            let poison = vec![f32::NAN; rows * width];
            let mut outs = [buffer(&backend, &poison), buffer(&backend, &poison)];
            // The body of the provided method.
            backend.add(&x, &mut residuals[0], rows * width).expect("it fits");
            backend
                .rms_norm(&residuals[0], &weight, 1e-6, (rows, width), &mut outs[0])
                .expect("it fits");
            backend
                .add_rms_norm(&x, &mut residuals[1], &weight, 1e-6, (rows, width), &mut outs[1])
                .expect("it fits");
            assert_eq!(residuals[0].to_vec(), residuals[1].to_vec());
            assert_eq!(outs[0].to_vec(), outs[1].to_vec());
        }
    }
}

#[test]
fn query_and_key_heads_are_normed_and_values_are_not() {
    for backend in backends() {
        for (num_heads, num_kv_heads, head_dim) in [(16, 8, 128), (4, 2, 32), (3, 1, 20)] {
            let heads = HeadLayout {
                num_heads,
                num_kv_heads,
                head_dim,
            };
            let mut random = Random(head_dim as u64);
            let rows = 21;
            let before = random.activations(rows * heads.qkv_width());
            let weights = [random.activations(head_dim), random.activations(head_dim)];
            let mut qkv = buffer(&backend, &before);
            backend
                .qk_norm(
                    &mut qkv,
                    heads,
                    (&buffer(&backend, &weights[0]), &buffer(&backend, &weights[1])),
                    1e-6,
                    rows,
                )
                .expect("it fits");
            let pairs = qkv.chunks_exact(head_dim).zip(before.chunks_exact(head_dim));
            for (index, (out, x)) in pairs.enumerate() {
                let head = index % (num_heads + 2 * num_kv_heads);
                if head >= num_heads + num_kv_heads {
                    assert_eq!(out, x, "a value");
                } else {
                    let weight = &weights[usize::from(head >= num_heads)];
                    check(backend.isa(), out, &exact_rms(x, weight, 1e-6));
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    for backend in backends() {
        let (rows, width) = (300, 576);
        let mut random = Random(8);
        let x = random.activations(rows * width);
        let weight = buffer(&backend, &random.activations(width));
        let bias = buffer(&backend, &random.activations(width));
        let norms = |x: &[f32]| {
            let (rows, x) = (x.len() / width, buffer(&backend, x));
            let mut out = [
                buffer(&backend, &vec![f32::NAN; x.len()]),
                buffer(&backend, &vec![f32::NAN; x.len()]),
            ];
            let [rms, layer] = &mut out;
            backend
                .rms_norm(&x, &weight, 1e-5, (rows, width), rms)
                .expect("it fits");
            backend
                .layer_norm(&x, (&weight, &bias), 1e-5, (rows, width), layer)
                .expect("it fits");
            out.map(|out| out.to_vec())
        };
        let together = norms(&x);
        for row in [0, 17, 299] {
            let alone = norms(&x[row * width..][..width]);
            for (alone, together) in alone.iter().zip(&together) {
                assert_eq!(alone[..], together[row * width..][..width]);
            }
        }
    }
}
