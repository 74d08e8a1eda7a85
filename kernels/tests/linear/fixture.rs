//! Products of the CPU backend, and how far each may be from f64 arithmetic on its dequantized weights.

use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    cpu::{CpuBackend, Isa, detect},
    ops::LinearOps,
};

use crate::support::{Random, dequantized_row};

pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
}

/// `x . w^T + bias`: x `(rows, k)`.
pub(crate) fn linear(
    backend: &CpuBackend,
    parts: &[HostTensor],
    x: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let weight = backend.prepare_weight(parts).expect("a weight");
    let rows = x.len() / weight.k();
    let mut x_buffer = backend.alloc(x.len()).expect("memory");
    backend.write(x, &mut x_buffer).expect("it fits");
    let bias = bias.map(|bias| {
        let mut buffer = backend.alloc(bias.len()).expect("memory");
        backend.write(bias, &mut buffer).expect("it fits");
        buffer
    });
    let mut out = backend.alloc(rows * weight.n()).expect("memory");
    out.fill(f32::NAN);
    backend
        .linear(&x_buffer, &weight, bias.as_ref(), rows, &mut out)
        .expect("a product");
    out.to_vec()
}

pub(crate) fn check_shape(parts: &[HostTensor], with_bias: bool, rows: &[usize]) {
    let k = parts[0].cols;
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let mut random = Random(17);
    let bias: Option<Vec<f32>> = with_bias.then(|| (0..n).map(|_| random.unit()).collect());
    let backend = CpuBackend::new(2);
    for &rows in rows {
        let x = random.activations(rows * k);
        let y = linear(&backend, parts, &x, bias.as_deref());
        check(parts, &x, bias.as_deref(), &y, &mut random);
    }
}

/// Compares some outputs, the corners among them, with f64.
pub(crate) fn check(parts: &[HostTensor], x: &[f32], bias: Option<&[f32]>, y: &[f32], random: &mut Random) {
    let k = parts[0].cols;
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let rows = x.len() / k;
    let mut columns = vec![0, n / 2, n - 1];
    columns.extend(parts.iter().scan(0, |end, part| {
        *end += part.rows;
        Some(*end - 1)
    }));
    columns.extend((0..40).map(|_| random.below(n)));
    for j in columns {
        let w = dequantized_row(parts, j);
        let mut end = 0;
        let part = parts.iter().find(|part| {
            end += part.rows;
            j < end
        });
        let part = part.expect("j < n");
        let format = part.format;
        let some_rows: Vec<usize> = if rows <= 17 {
            (0..rows).collect()
        } else {
            (0..8).map(|_| random.below(rows)).chain([0, rows - 1]).collect()
        };
        for i in some_rows {
            let x = &stored_order(part, &x[i * k..][..k]);
            let x = if format.block_len() > 1 {
                rounded(x)
            } else {
                x.to_vec()
            };
            let exact: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let exact = exact + bias.map_or(0.0, |bias| f64::from(bias[j]));
            let got = f64::from(y[i * n + j]);
            // The addition of the bias rounds once more.
            let allowed = tolerance(format, &x, &w) * (1.0 + 1e-6) + exact.abs() * f64::from(f32::EPSILON);
            let error = (got - exact).abs();
            assert!(
                error <= allowed,
                "{format} {n} x {k}, {rows} rows: out[{i}, {j}] = {got}, exactly {exact}: \
                 off by {error:e}, {allowed:e} allowed"
            );
        }
    }
}

/// An activation row in the order of the part's columns.
pub(crate) fn stored_order(part: &HostTensor, x: &[f32]) -> Vec<f32> {
    match &part.order {
        Some(order) => order.iter().map(|&input| x[input as usize]).collect(),
        None => x.to_vec(),
    }
}

/// What quantized weights are multiplied with: each block of 32 rounded to `s * level`, `s = max|x| / 127`, so
/// that an element moves by `s / 2` at most (1 + 1e-5: `s` and `1 / s` are rounded to f32 themselves).
fn rounded(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for block in x.chunks(32) {
        let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        for x in block {
            let level = (x * (127.0 / largest)).round_ties_even();
            let y = if largest > 0.0 {
                largest / 127.0 * level
            } else {
                0.0
            };
            assert!((y - x).abs() <= largest / 254.0 * (1.0 + 1e-5));
            out.push(y);
        }
    }
    out
}

/// Largest error of `x . w` in f32 arithmetic, unit roundoff u = 2^-24.
///
/// A product of weight and activation passes through at most `steps` roundings, so the error is at most
/// `steps * u / (1 - steps * u)` of the sum of the magnitudes that are added.
/// Dense: k / 16 fused multiply-adds in a lane and 4 additions of lanes; the magnitudes are `|x * w|`.
/// Quantized: one or two products of scales, then at most two fused multiply-adds a block of 32 (Q6_K: its
/// halves; others: product and minimum); the magnitudes are those of `scale * (level - zero) * x` and
/// `min * x`, both at most `spread * |x|`. And `rounded` rounds once more than the kernel, which keeps scale
/// and level apart.
fn tolerance(format: WeightFormat, x: &[f32], w: &[f32]) -> f64 {
    let steps = 4 + 2 * x.len().div_ceil(32);
    let abs = |x: f32| f64::from(x.abs());
    let magnitude: f64 = if format.block_len() > 1 {
        2.0 * spread(format) * x.iter().map(|x| abs(*x)).sum::<f64>()
    } else {
        x.iter().zip(w).map(|(x, w)| abs(*x) * abs(*w)).sum()
    };
    let u = steps as f64 * f64::from(f32::EPSILON / 2.0);
    u / (1.0 - u) * magnitude
}

/// The largest `|scale * (level - zero)|` or `|min|` that [`Random::matrix`] makes of quantized weights.
fn spread(format: WeightFormat) -> f64 {
    0.05 * match format {
        WeightFormat::Q4_1 => 15.0,
        WeightFormat::Q5_1 => 31.0,
        WeightFormat::Q4K => 15.0 * 63.0,
        WeightFormat::Q5K => 31.0 * 63.0,
        WeightFormat::Q4_0 => 8.0,
        WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => 16.0,
        WeightFormat::Q5_0 => 16.0,
        WeightFormat::Q8_0 => 128.0,
        WeightFormat::Q6K => 32.0 * 128.0,
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => unreachable!("not quantized"),
    }
}
