//! `silu(gate) * up` of many rows: one kernel on Hopper, where both halves stay in single precision.

use ferrum_kernels::{Backend, cuda::Element, ops::LinearOps};

use crate::{
    linear::{format, sum_error},
    support::Random,
    twin::{Twin, unit},
};

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn check(twin: &Twin, random: &mut Random, (width, k, rows): (usize, usize, usize), biased: bool) {
    let what = format!("gated product of {rows} rows, {width} x {k}");
    let matrix = random.matrix(format(twin.element), 2 * width, k);
    let values = twin.random(random, rows * k);
    let (x, cpu_x) = twin.buffers(&values);
    let bias: Vec<f32> = (0..2 * width).map(|_| random.unit()).collect();
    let (bias, cpu_bias) = twin.vectors(&bias);
    let weight = twin
        .gpu
        .prepare_weight(std::slice::from_ref(&matrix))
        .expect("memory");
    let cpu_weight = twin.cpu.prepare_weight(&[matrix]).expect("memory");
    let (mut gate_up, mut halves) = twin.outputs(rows * 2 * width);
    twin.cpu
        .linear(
            &cpu_x,
            &cpu_weight,
            biased.then_some(&cpu_bias),
            rows,
            &mut halves,
        )
        .expect("a product");
    // A row more than there are, which is to be left alone.
    let (mut out, _) = twin.outputs((rows + 1) * width);
    let bias = biased.then_some(&bias);
    twin.gpu
        .linear_silu_mul(&x, &weight, bias, (rows, width), (&mut gate_up, &mut out))
        .expect("a product");
    let pair = |i: usize| {
        let at = i / width * 2 * width + i % width;
        (f64::from(halves[at]), f64::from(halves[at + width]))
    };
    let errors: Vec<f64> = values.chunks(k).map(|row| sum_error(k, row)).collect();
    let expected: Vec<f32> = (0..rows * width)
        .map(|i| (silu(pair(i).0) * pair(i).1) as f32)
        .collect();
    // Other GPUs write both halves down first.
    let rounding = match twin.gpu.facts().capability {
        (9, 0) => 0.0,
        _ => 2.0 * unit(twin.element),
    };
    twin.check(&what, &out, &expected, |i, y| {
        let (gate, up) = pair(i);
        // Of either half. Silu is nowhere steeper than 1.1, and no larger than its argument.
        let [of_gate, of_up] =
            [gate, up].map(|half| errors[i / width] + (rounding + 2.0_f64.powi(-23)) * half.abs());
        let exponential = 2.0_f64.powi(-20) * f64::from(y.abs());
        1.1 * of_gate * (up.abs() + of_up) + gate.abs() * of_up + exponential
    });
    let all = twin.read(&out, (rows + 1) * width);
    assert!(
        all[rows * width..].iter().all(|y| y.is_nan()),
        "{what}: a row too many"
    );
}

#[test]
fn gated_products_of_many_rows_equal_the_cpu() {
    // Of Qwen3-4B, and for every width of tiles and clusters of one and two blocks; ends of tiles in all three directions.
    let shapes = [
        (9728, 2560, 512),
        (9728, 136, 2048),
        (9728, 136, 384),
        (8960, 136, 384),
        (5632, 200, 384),
        (3072, 1024, 257),
        (1024, 576, 2048),
        (1000, 200, 300),
        (104, 72, 509),
        (8, 40, 256),
    ];
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        let mut random = Random(11);
        for (case, shape) in shapes.into_iter().enumerate() {
            check(&twin, &mut random, shape, case % 2 == 1);
        }
    }
}
