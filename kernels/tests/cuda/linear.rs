use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    cuda::Element,
    ops::{ActivationOps, LinearOps},
};

use crate::{
    support::{QUANTIZED, Random, dequantized_row},
    twin::{ELEMENTS, Twin},
};

pub(crate) fn format(element: Element) -> WeightFormat {
    match element {
        Element::F32 => WeightFormat::F32,
        Element::F16 => WeightFormat::F16,
        Element::Bf16 => WeightFormat::BF16,
    }
}

/// Sums of k products in another order: each addition rounds (tensor cores cut off, at twice the size) what has been
/// summed so far, which grows like a random walk; eight deviations.
pub(crate) fn sum_error(k: usize, x: &[f32]) -> f64 {
    let size = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    // Weights are uniform in -1..1.
    8.0 * 2.0_f64.powi(-23) * (k as f64).sqrt() * size / 3.0_f64.sqrt()
}

pub(crate) fn check(twin: &Twin, random: &mut Random, weight: &HostTensor, rows: usize, biased: bool) {
    let (n, k) = (weight.rows, weight.cols);
    let values = twin.random(random, rows * k);
    let (x, cpu_x) = twin.buffers(&values);
    let (bias, cpu_bias) = twin.vectors(&(0..n).map(|_| random.unit()).collect::<Vec<_>>());
    let gpu_weight = twin
        .gpu
        .prepare_weight(std::slice::from_ref(weight))
        .expect("memory");
    let cpu_weight = twin
        .cpu
        .prepare_weight(std::slice::from_ref(weight))
        .expect("memory");
    let (_, mut expected) = twin.outputs(rows * n);
    let cpu_bias = biased.then_some(&cpu_bias);
    twin.cpu
        .linear(&cpu_x, &cpu_weight, cpu_bias, rows, &mut expected)
        .expect("a product");
    // As activations, and as logits.
    for (mut out, _) in [twin.outputs(rows * n), twin.exact_outputs(rows * n)] {
        let bias = biased.then_some(&bias);
        twin.gpu
            .linear(&x, &gpu_weight, bias, rows, &mut out)
            .expect("a product");
        let what = format!("linear of {rows} rows, {n} x {k}");
        // Without tensor cores a bias is added after a rounding.
        let rounded = if biased {
            2.0 * crate::twin::unit(out.element()) * 2.0
        } else {
            0.0
        };
        twin.check(&what, &out, &expected[..rows * n], |i, y| {
            sum_error(k, &values[i / n * k..][..k]) + rounded * (f64::from(y.abs()) + 1.0)
        });
    }
}

#[test]
fn few_rows_equal_the_cpu_at_the_shapes_of_models() {
    // (n, k) of q/k/v, output, gate and up, down of SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Qwen3-4B, Qwen3-14B, Llama 8B.
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
        (5120, 5120),
        (6144, 4096),
        (4096, 14336),
    ];
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(1);
        for (case, (n, k)) in shapes.into_iter().enumerate() {
            let weight = random.matrix(format(element), n, k);
            let some = [[1, 2, 16], [1, 4, 17], [1, 8, 32], [1, 3, 15], [1, 7, 9]][case % 5];
            for rows in some {
                check(&twin, &mut random, &weight, rows, case % 3 == 0);
            }
        }
    }
}

#[test]
fn many_rows_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(2);
        for (n, k, rows) in [
            (960, 576, 33),
            (2560, 1024, 64),
            (1152, 896, 100),
            (6144, 2560, 257),
            (576, 1536, 512),
        ] {
            let weight = random.matrix(format(element), n, k);
            check(&twin, &mut random, &weight, rows, rows % 2 == 1);
        }
    }
}

#[test]
fn odd_shapes_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(3);
        for (n, k) in [(1, 8), (7, 24), (65, 40), (129, 136), (33, 50), (3, 1)] {
            let weight = random.matrix(format(element), n, k);
            for rows in [1, 5, 16, 31, 70] {
                check(&twin, &mut random, &weight, rows, rows % 2 == 0);
            }
        }
    }
}

#[test]
fn vocabularies_of_all_sizes_equal_the_cpu() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(4);
    for (n, k) in [(32_000, 576), (49_152, 576), (128_256, 256), (151_936, 1024)] {
        let weight = random.matrix(WeightFormat::BF16, n, k);
        for rows in [1, 5] {
            check(&twin, &mut random, &weight, rows, false);
        }
    }
}

/// Checks that a row has the same bits in any company of up to `most` rows.
pub(crate) fn check_company(twin: &Twin, random: &mut Random, weight: HostTensor, most: usize) {
    let (n, k) = (weight.rows, weight.cols);
    let weight = twin.gpu.prepare_weight(&[weight]).expect("memory");
    let values = twin.random(random, most * k);
    let run = |rows: std::ops::Range<usize>| {
        let (x, _) = twin.buffers(&values[rows.start * k..rows.end * k]);
        let (mut out, _) = twin.outputs(rows.len() * n);
        twin.gpu
            .linear(&x, &weight, None, rows.len(), &mut out)
            .expect("a product");
        twin.read(&out, rows.len() * n)
    };
    let together = run(0..most);
    for rows in [0..1, most / 2 - 1..most / 2 + 1, most / 2..most - 1, 1..most] {
        assert_eq!(run(rows.clone()), together[rows.start * n..rows.end * n]);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company_of_which_one_kernel_makes_the_products() {
    for element in ELEMENTS {
        let mut random = Random(5);
        let weight = random.matrix(format(element), 2568, 1096);
        check_company(&Twin::invariant(element), &mut random, weight, 16);
        let weight = random.matrix(format(element), 4104, 2056);
        check_company(&Twin::new(element), &mut random, weight, 4);
    }
}

#[test]
fn a_gated_product_has_the_bits_of_its_parts() {
    for element in ELEMENTS {
        // Whose products of 3 to 16 rows are made by the kernel for one and two.
        let twin = Twin::invariant(element);
        let mut random = Random(7);
        // The inner widths of Qwen3-4B, Qwen3-0.6B and SmolLM2-135M, a small one, and odd ones.
        let shapes = [
            (9728, 2560),
            (3072, 1024),
            (1536, 576),
            (64, 64),
            (100, 136),
            (7, 24),
            (1, 8),
        ];
        for (case, (width, k)) in shapes.into_iter().enumerate() {
            let matrix = random.matrix(format(element), 2 * width, k);
            let weight = twin.gpu.prepare_weight(&[matrix]).expect("memory");
            let bias = (0..2 * width).map(|_| random.unit()).collect::<Vec<_>>();
            let (bias, _) = twin.vectors(&bias);
            let bias = (case % 2 == 0).then_some(&bias);
            for rows in [1, 3, 8, 9, 16] {
                let (x, _) = twin.buffers(&twin.random(&mut random, rows * k));
                let (mut gate_up, _) = twin.outputs(rows * 2 * width);
                let (mut parts, _) = twin.outputs(rows * width);
                let (mut fused, _) = twin.outputs(rows * width);
                let (gpu, shape) = (&twin.gpu, (rows, width));
                gpu.linear(&x, &weight, bias, rows, &mut gate_up)
                    .expect("a product");
                gpu.silu_mul(&gate_up, rows, width, &mut parts)
                    .expect("activations");
                gpu.linear_silu_mul(&x, &weight, bias, shape, (&mut gate_up, &mut fused))
                    .expect("a product");
                let (parts, fused) = (twin.read(&parts, rows * width), twin.read(&fused, rows * width));
                assert!(fused.iter().all(|y| y.is_finite()), "{rows} rows, {width} x {k}");
                assert_eq!(fused, parts, "{}, {rows} rows, {width} x {k}", element.name());
            }
        }
    }
}

#[test]
fn batches_of_up_to_64_rows_equal_the_cpu_at_the_shapes_of_models() {
    // Those of Qwen3-4B, Qwen3-0.6B, halves of them, SmolLM2-135M, Llama 8B, and odd ones.
    let shapes = [
        (6144, 2560),
        (2560, 4096),
        (2560, 9728),
        (3072, 2560),
        (2560, 4864),
        (1024, 2048),
        (1024, 3072),
        (960, 576),
        (4096, 14336),
        (1, 8),
        (33, 72),
        (129, 136),
        (2562, 1096),
    ];
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        let mut random = Random(8);
        for (case, (n, k)) in shapes.into_iter().enumerate() {
            let weight = random.matrix(format(element), n, k);
            let some = [[5, 17, 64], [16, 32, 49], [8, 24, 63], [9, 40, 33]][case % 4];
            for rows in some {
                check(&twin, &mut random, &weight, rows, case % 3 == 0);
            }
        }
    }
}

/// Gated products of more rows than one kernel's have other sums than their parts.
#[test]
fn gated_products_of_up_to_64_rows_equal_their_parts() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        let mut random = Random(9);
        for (case, (width, k)) in [
            (9728, 2560),
            (3072, 1024),
            (1536, 576),
            (4864, 2560),
            (7, 24),
            (100, 136),
        ]
        .into_iter()
        .enumerate()
        {
            let matrix = random.matrix(format(element), 2 * width, k);
            let weight = twin.gpu.prepare_weight(&[matrix]).expect("memory");
            let bias = (0..2 * width).map(|_| random.unit()).collect::<Vec<_>>();
            let (bias, _) = twin.vectors(&bias);
            let bias = (case % 2 == 0).then_some(&bias);
            for rows in [[5, 17, 64], [8, 16, 33]][case % 2] {
                let (x, _) = twin.buffers(&twin.random(&mut random, rows * k));
                let (mut gate_up, _) = twin.exact_outputs(rows * 2 * width);
                let (mut scratch, _) = twin.outputs(rows * 2 * width);
                let (mut fused, _) = twin.outputs(rows * width);
                let gpu = &twin.gpu;
                gpu.linear(&x, &weight, bias, rows, &mut gate_up)
                    .expect("a product");
                gpu.linear_silu_mul(&x, &weight, bias, (rows, width), (&mut scratch, &mut fused))
                    .expect("a product");
                let parts = twin.read(&gate_up, rows * 2 * width);
                let at = |i: usize, half: usize| parts[(i / width * 2 + half) * width + i % width];
                let expected: Vec<f32> = (0..rows * width)
                    .map(|i| at(i, 0) / (1.0 + (-at(i, 0)).exp()) * at(i, 1))
                    .collect();
                // Each half is rounded, and silu is nowhere steeper than 1.1; near 0 what the halves' sums differ by, far less
                // than a unit of 1.
                let unit = crate::twin::unit(element);
                twin.check("a gated product", &fused, &expected, |i, y| {
                    let (gate, up) = (f64::from(at(i, 0).abs()), f64::from(at(i, 1).abs()));
                    unit * (2.2 * gate * up + f64::from(y.abs()) + gate + up)
                });
            }
        }
    }
}

#[test]
fn weights_of_every_format_are_converted_at_load() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(6);
        for format in QUANTIZED.into_iter().chain(crate::support::DENSE) {
            let parts = [random.matrix(format, 24, 512), random.matrix(format, 40, 512)];
            let weight = twin.gpu.prepare_weight(&parts).expect("memory");
            let ids = [0, 23, 24, 63, 5];
            let (gpu_ids, _) = twin.indices(&ids);
            for (mut out, _) in [twin.outputs(5 * 512), twin.exact_outputs(5 * 512)] {
                twin.gpu.embed(&weight, &gpu_ids, 5, &mut out).expect("rows");
                let got = twin.read(&out, 5 * 512);
                let expected = ids.iter().flat_map(|&id| dequantized_row(&parts, id as usize));
                // Levels of 8 bits stay as they are: only what they become is rounded.
                let rounded_to = match format {
                    WeightFormat::Q8_0 => out.element(),
                    _ => element,
                };
                for (got, expected) in got.iter().zip(expected) {
                    assert_eq!(*got, crate::twin::round(rounded_to, expected), "{format}");
                }
            }
        }
    }
}
