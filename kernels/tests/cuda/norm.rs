use ferrum_kernels::ops::{HeadLayout, NormOps};

use crate::{
    support::Random,
    twin::{ELEMENTS, Twin, unit},
};

const EPS: f32 = 1e-5;
/// Rows and widths of models, and odd ones.
const SHAPES: [(usize, usize); 9] = [
    (1, 576),
    (3, 896),
    (5, 1024),
    (1, 2560),
    (64, 2560),
    (17, 5120),
    (2, 8192),
    (3, 33),
    (700, 64),
];

/// A sum of `width` squares and the roundings around it, in f32, of results of about one.
fn error(width: usize) -> f64 {
    (8.0 + (width as f64).sqrt()) * 2.0_f64.powi(-23)
}

#[test]
fn rms_norm_and_its_fusion_with_the_residual_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(1);
        for (rows, width) in SHAPES {
            let values = twin.random(&mut random, rows * width);
            let sums: Vec<f32> = (0..rows * width).map(|_| 3.0 * random.unit()).collect();
            let (weight, cpu_weight) =
                twin.vectors(&(0..width).map(|_| 1.0 + random.unit()).collect::<Vec<_>>());
            let ((x, cpu_x), (mut residual, mut cpu_residual)) =
                (twin.buffers(&values), twin.exact_buffers(&sums));
            let (mut out, mut expected) = twin.outputs(rows * width);
            let shape = (rows, width);
            let allowed = |_, y: f32| error(width) * (1.0 + f64::from(y.abs()));
            twin.gpu
                .rms_norm(&x, &weight, EPS, shape, &mut out)
                .expect("a norm");
            twin.cpu
                .rms_norm(&cpu_x, &cpu_weight, EPS, shape, &mut expected)
                .expect("a norm");
            twin.check("rms_norm", &out, &expected, allowed);

            let (mut out, _) = twin.outputs(rows * width);
            twin.gpu
                .add_rms_norm(&x, &mut residual, &weight, EPS, shape, &mut out)
                .expect("a norm");
            twin.cpu
                .add_rms_norm(&cpu_x, &mut cpu_residual, &cpu_weight, EPS, shape, &mut expected)
                .expect("a norm");
            assert_eq!(twin.read(&residual, rows * width), cpu_residual[..rows * width]);
            twin.check("add_rms_norm", &out, &expected, allowed);

            // The parts of which it is the fusion give the same bits.
            let (mut residual, _) = twin.exact_buffers(&sums);
            let (mut parts, _) = twin.outputs(rows * width);
            use ferrum_kernels::ops::ActivationOps;
            twin.gpu.add(&x, &mut residual, rows * width).expect("a sum");
            twin.gpu
                .rms_norm(&residual, &weight, EPS, shape, &mut parts)
                .expect("a norm");
            assert_eq!(twin.read(&parts, rows * width), twin.read(&out, rows * width));
        }
    }
}

#[test]
fn layer_norm_equals_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(2);
        for (rows, width) in SHAPES {
            let values = twin.random(&mut random, rows * width);
            let (x, cpu_x) = twin.buffers(&values);
            let (weight, cpu_weight) =
                twin.vectors(&(0..width).map(|_| 1.0 + random.unit()).collect::<Vec<_>>());
            let (bias, cpu_bias) = twin.vectors(&(0..width).map(|_| random.unit()).collect::<Vec<_>>());
            let (mut out, mut expected) = twin.outputs(rows * width);
            let shape = (rows, width);
            twin.gpu
                .layer_norm(&x, (&weight, &bias), EPS, shape, &mut out)
                .expect("a norm");
            twin.cpu
                .layer_norm(&cpu_x, (&cpu_weight, &cpu_bias), EPS, shape, &mut expected)
                .expect("a norm");
            twin.check("layer_norm", &out, &expected, |_, y| {
                4.0 * error(width) * (1.0 + f64::from(y.abs()))
            });
        }
    }
}

#[test]
fn the_norm_of_heads_equals_the_cpu_and_leaves_values_alone() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(3);
        for (num_heads, num_kv_heads, head_dim) in [
            (9, 3, 64),
            (14, 2, 64),
            (16, 8, 128),
            (32, 8, 128),
            (40, 8, 128),
            (4, 2, 18),
        ] {
            let heads = HeadLayout {
                num_heads,
                num_kv_heads,
                head_dim,
            };
            for rows in [1, 5, 33] {
                let values = twin.random(&mut random, rows * heads.qkv_width());
                let (mut qkv, mut cpu_qkv) = twin.buffers(&values);
                let (q, cpu_q) =
                    twin.vectors(&(0..head_dim).map(|_| 1.0 + random.unit()).collect::<Vec<_>>());
                let (k, cpu_k) =
                    twin.vectors(&(0..head_dim).map(|_| 1.0 + random.unit()).collect::<Vec<_>>());
                twin.gpu
                    .qk_norm(&mut qkv, heads, (&q, &k), EPS, rows)
                    .expect("a norm");
                twin.cpu
                    .qk_norm(&mut cpu_qkv, heads, (&cpu_q, &cpu_k), EPS, rows)
                    .expect("a norm");
                twin.check("qk_norm", &qkv, &cpu_qkv, |_, y| {
                    error(head_dim) * (1.0 + f64::from(y.abs())) + unit(ferrum_kernels::cuda::Element::F32)
                });
            }
        }
    }
}
