//! Products with groups of 4-bit levels, against the CPU's with the same weights in f32.

use ferrum_kernels::{Backend, HostTensor, WeightFormat, cuda::Element, ops::LinearOps};

use crate::{
    linear::check_company,
    support::{Random, dequantized_row},
    twin::{Twin, round, unit},
};

const ELEMENTS: [Element; 2] = [Element::F16, Element::Bf16];
const FORMATS: [WeightFormat; 3] = [
    WeightFormat::Int4G32,
    WeightFormat::Int4G64,
    WeightFormat::Int4G128,
];

/// Above these rows weights are dequantized to the element type.
fn most_exact_rows(format: WeightFormat) -> usize {
    if format == WeightFormat::Q8_0 { 128 } else { 64 }
}

/// All zero levels 8, as symmetric quantizers have them.
pub(crate) fn symmetric(mut tensor: HostTensor) -> HostTensor {
    let mut bytes = tensor.bytes.to_vec();
    let blocks = bytes.chunks_exact_mut(tensor.format.block_bytes());
    blocks.for_each(|block| block[2] = 8);
    tensor.bytes = bytes.into();
    tensor
}

pub(crate) fn shuffled(random: &mut Random, tensor: HostTensor) -> HostTensor {
    let mut order: Vec<u32> = (0..tensor.cols as u32).collect();
    (1..order.len())
        .rev()
        .for_each(|i| order.swap(i, random.below(i + 1)));
    HostTensor {
        order: Some(order.into()),
        ..tensor
    }
}

/// The rows of all parts in the order of the inputs.
pub(crate) fn dense_rows(parts: &[HostTensor]) -> Vec<f32> {
    let mut rows = Vec::new();
    for part in parts {
        for row in 0..part.rows {
            let stored = dequantized_row(std::slice::from_ref(part), row);
            let start = rows.len();
            rows.resize(start + part.cols, 0.0);
            for (i, x) in stored.into_iter().enumerate() {
                let input = part.order.as_ref().map_or(i, |order| order[i] as usize);
                rows[start + input] = x;
            }
        }
    }
    rows
}

pub(crate) fn size(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Sums of products in another order: each addition rounds (tensor cores cut off, at twice the size) what has been
/// summed so far, which grows like a random walk; eight deviations. Levels are exact, and scaled in f32; where weights
/// are not exact, each is rounded to the element type first.
fn allowed(element: Element, is_exact: bool, x: &[f32], w_mean: f64) -> f64 {
    let rounding = if is_exact { 0.0 } else { unit(element) };
    8.0 * w_mean * size(x) * (2.0_f64.powi(-23) * (x.len() as f64).sqrt() + rounding)
}

pub(crate) fn check(
    twin: &Twin,
    random: &mut Random,
    parts: &[HostTensor],
    all_rows: &[usize],
    biased: bool,
) {
    let k = parts[0].cols;
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let weight = twin.gpu.prepare_weight(parts).expect("memory");
    let dense = dense_rows(parts);
    let w_mean = size(&dense) / (dense.len() as f64).sqrt();
    let bytes: Vec<u8> = dense.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dense = HostTensor::new(WeightFormat::F32, n, k, bytes.into());
    let cpu_weight = twin.cpu.prepare_weight(&[dense]).expect("memory");
    let (bias, cpu_bias) = twin.vectors(&(0..n).map(|_| random.unit()).collect::<Vec<_>>());
    for &rows in all_rows {
        let is_exact = rows <= most_exact_rows(parts[0].format);
        let values = twin.random(random, rows * k);
        let (x, cpu_x) = twin.buffers(&values);
        let (_, mut expected) = twin.outputs(rows * n);
        twin.cpu
            .linear(
                &cpu_x,
                &cpu_weight,
                biased.then_some(&cpu_bias),
                rows,
                &mut expected,
            )
            .expect("a product");
        // As activations, and as logits.
        for (mut out, _) in [twin.outputs(rows * n), twin.exact_outputs(rows * n)] {
            twin.gpu
                .linear(&x, &weight, biased.then_some(&bias), rows, &mut out)
                .expect("a product");
            let formats: Vec<_> = parts.iter().map(|part| part.format.to_string()).collect();
            let what = format!("{} of {rows} rows, {n} x {k}", formats.join(" and "));
            // cuBLASLt rounds before the bias is added.
            let rounded = if biased { 4.0 * unit(out.element()) } else { 0.0 };
            twin.check(&what, &out, &expected[..rows * n], |i, y| {
                let x = &values[i / n * k..][..k];
                allowed(twin.element, is_exact, x, w_mean) + rounded * (f64::from(y.abs()) + 1.0)
            });
        }
    }
}

#[test]
fn four_bits_equal_the_cpu_at_the_shapes_of_models() {
    // (n, k) of q/k/v, output, gate and up, down of SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Qwen3-4B, Qwen3-14B.
    let shapes = [
        (960, 576),
        (576, 576),
        (3072, 576),
        (576, 1536),
        (1152, 896),
        (9728, 896),
        (896, 4864),
        (4096, 1024),
        (1024, 2048),
        (6144, 1024),
        (1024, 3072),
        (6144, 2560),
        (2560, 4096),
        (19456, 2560),
        (2560, 9728),
        (7168, 5120),
    ];
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(21);
        for (case, (n, k)) in shapes.into_iter().enumerate() {
            // The largest group that divides k, symmetric or not.
            let format = FORMATS
                .into_iter()
                .rev()
                .find(|format| k % format.block_len() == 0);
            let weight = random.matrix(format.expect("a multiple of 32"), n, k);
            let weight = if case % 2 == 0 { symmetric(weight) } else { weight };
            let some = [[1, 8, 17], [1, 4, 64], [2, 16, 32], [1, 7, 33], [3, 9, 12]][case % 5];
            check(&twin, &mut random, &[weight], &some, case % 3 == 0);
        }
    }
}

#[test]
fn every_group_and_number_of_rows_equals_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(22);
        for format in FORMATS {
            for (n, k) in [(200, 896), (4240, 384)] {
                let weight = random.matrix(format, n, k);
                let rows = [
                    1, 2, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 192, 193, 257,
                ];
                check(&twin, &mut random, &[weight], &rows, n == 200);
            }
        }
    }
}

#[test]
fn odd_shapes_at_four_bits_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(23);
        for (n, k) in [(1, 32), (7, 96), (65, 160), (129, 2080), (33, 64), (16, 1056)] {
            let weight = random.matrix(WeightFormat::Int4G32, n, k);
            check(
                &twin,
                &mut random,
                &[weight],
                &[1, 5, 16, 31, 70, 200],
                n % 2 == 0,
            );
        }
    }
}

#[test]
fn columns_in_an_order_of_their_own_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(24);
        let plain = random.matrix(WeightFormat::Int4G128, 48, 512);
        let mut scattered = |format, rows| {
            let tensor = random.matrix(format, rows, 512);
            shuffled(&mut random, tensor)
        };
        // One order for two parts, another for a third of other groups, none for the last.
        let first = scattered(WeightFormat::Int4G128, 64);
        let second = HostTensor {
            order: first.order.clone(),
            ..scattered(WeightFormat::Int4G128, 33)
        };
        let third = scattered(WeightFormat::Int4G32, 70);
        check(
            &twin,
            &mut random,
            &[first, second, third, plain],
            &[1, 6, 16, 40, 64, 300],
            true,
        );
    }
}

#[test]
fn four_bits_beside_another_format_are_dequantized() {
    let twin = Twin::new(Element::F16);
    let mut random = Random(25);
    let parts = [
        random.matrix(WeightFormat::Int4G64, 40, 256),
        random.matrix(WeightFormat::F16, 24, 256),
    ];
    let weight = twin.gpu.prepare_weight(&parts).expect("memory");
    let (ids, _) = twin.indices(&[39, 40]);
    let (mut out, _) = twin.outputs(2 * 256);
    twin.gpu.embed(&weight, &ids, 2, &mut out).expect("rows");
    let expected = [39, 40].map(|row| dequantized_row(&parts, row)).concat();
    let expected: Vec<f32> = expected.into_iter().map(|x| round(Element::F16, x)).collect();
    assert_eq!(twin.read(&out, 2 * 256), expected);
}

#[test]
fn a_row_at_four_bits_has_the_same_bits_in_any_company_of_up_to_4_rows() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(26);
        for (n, k) in [(4240, 1152), (512, 9728), (2560, 9728)] {
            let weight = random.matrix(WeightFormat::Int4G128, n, k);
            check_company(&twin, &mut random, weight, 4);
        }
    }
}

#[test]
fn a_gated_product_at_four_bits_equals_its_parts() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(27);
        // Two parts of one kind, a width without a kernel of its own, an order of columns, and 64 and 32 in a group.
        for (case, (format, width, k)) in [
            (WeightFormat::Int4G128, 9728, 2560),
            (WeightFormat::Int4G128, 40, 384),
            (WeightFormat::Int4G64, 1536, 576),
            (WeightFormat::Int4G32, 16, 96),
        ]
        .into_iter()
        .enumerate()
        {
            let gate = random.matrix(format, width, k);
            let gate = if case == 2 {
                shuffled(&mut random, gate)
            } else {
                gate
            };
            let up = HostTensor {
                order: gate.order.clone(),
                ..random.matrix(format, width, k)
            };
            let weight = twin.gpu.prepare_weight(&[gate, up]).expect("memory");
            let (bias, _) = twin.vectors(&(0..2 * width).map(|_| random.unit()).collect::<Vec<_>>());
            let bias = (case % 2 == 0).then_some(&bias);
            for rows in [1, 3, 8, 9, 16, 17, 33, 64, 65, 300] {
                let (x, _) = twin.buffers(&twin.random(&mut random, rows * k));
                let (mut gate_up, _) = twin.outputs(rows * 2 * width);
                let (mut fused, _) = twin.outputs(rows * width);
                twin.gpu
                    .linear(&x, &weight, bias, rows, &mut gate_up)
                    .expect("a product");
                let halves = twin.read(&gate_up, rows * 2 * width);
                twin.gpu
                    .linear_silu_mul(&x, &weight, bias, (rows, width), (&mut gate_up, &mut fused))
                    .expect("a product");
                let pair = |i: usize| {
                    let at = i / width * 2 * width + i % width;
                    (halves[at], halves[at + width])
                };
                let silu = |x: f32| x / (1.0 + (-x).exp());
                let expected: Vec<f32> = (0..rows * width).map(|i| silu(pair(i).0) * pair(i).1).collect();
                let what = format!("gated {format}, {rows} rows, {width} x {k}");
                // Sums in another order may round the other way: two units of either half (silu is nowhere steeper than
                // 1.1), and one of the result; near 0 what the halves' sums differ by, far less than a unit of 1.
                twin.check(&what, &fused, &expected, |i, y| {
                    let (gate, up) = (f64::from(pair(i).0), f64::from(pair(i).1));
                    let near_zero = unit(element) * (up.abs() + gate.abs());
                    unit(element) * (2.2 * (gate * up).abs() + 3.0 * f64::from(y.abs())) + near_zero
                });
            }
        }
    }
}
