use ferrum_kernels::ops::{ActivationOps, Gelu};

use crate::{
    support::Random,
    twin::{ELEMENTS, Twin, round},
};

#[test]
fn sums_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(1);
        for len in [1, 3, 4, 577, 2560 * 33, 5_000_001] {
            let (a, b) = (twin.random(&mut random, len), twin.random(&mut random, len));
            let (x, cpu_x) = twin.buffers(&a);
            for ((mut y, mut cpu_y), exact) in [(twin.buffers(&b), false), (twin.exact_buffers(&b), true)] {
                twin.gpu.add(&x, &mut y, len).expect("a sum");
                twin.cpu.add(&cpu_x, &mut cpu_y, len).expect("a sum");
                let expected = cpu_y.iter().map(|&y| if exact { y } else { round(element, y) });
                assert!(twin.read(&y, len).into_iter().eq(expected), "{len} elements");
            }
        }
    }
}

#[test]
fn silu_and_gelu_equal_the_cpu() {
    // exp and division, each off by a few units in the last place, on both sides.
    let few = |_, y: f32| 32.0 * 2.0_f64.powi(-24) * (f64::from(y.abs()) + 0.1);
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(2);
        for (rows, width) in [(1, 1536), (7, 4864), (64, 9728), (3, 33), (2, 6)] {
            let values: Vec<f32> = (0..rows * 2 * width)
                .map(|_| round(element, 12.0 * random.unit()))
                .collect();
            let (gate_up, cpu_gate_up) = twin.buffers(&values);
            let (mut out, mut expected) = twin.outputs(rows * width);
            twin.gpu
                .silu_mul(&gate_up, rows, width, &mut out)
                .expect("a product");
            twin.cpu
                .silu_mul(&cpu_gate_up, rows, width, &mut expected)
                .expect("a product");
            twin.check("silu_mul", &out, &expected, few);
            for kind in [Gelu::Erf, Gelu::Quick, Gelu::Tanh] {
                let (mut x, mut cpu_x) = twin.buffers(&values);
                twin.gpu.gelu(&mut x, kind, values.len()).expect("a gelu");
                twin.cpu.gelu(&mut cpu_x, kind, values.len()).expect("a gelu");
                twin.check("gelu", &x, &cpu_x, few);
            }
        }
    }
}

#[test]
fn rows_are_gathered_as_they_are() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(3);
        for width in [576, 33, 2560] {
            let values = twin.random(&mut random, 50 * width);
            let ids = [49, 0, 0, 17];
            let (indices, _) = twin.indices(&ids);
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|&id| &values[id as usize * width..][..width])
                .copied()
                .collect();
            for ((x, _), (mut out, _)) in [
                (twin.buffers(&values), twin.outputs(4 * width)),
                (twin.exact_buffers(&values), twin.exact_outputs(4 * width)),
            ] {
                twin.gpu
                    .gather_rows(&x, &indices, 4, width, &mut out)
                    .expect("rows");
                assert_eq!(twin.read(&out, 4 * width), expected);
            }
        }
    }
}
