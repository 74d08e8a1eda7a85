//! Products that are summed over GPUs in their own kernel.

use ferrum_kernels::{
    Backend, BackendError, HostTensor, WeightFormat,
    backend::StepShape,
    cpu::CpuBackend,
    cuda::{Element, Link, Recorded},
    ops::{LinearArguments, Normed, RmsNormWeight},
};
use half::bf16;

use crate::{EPS, alone, gpus, on_each, random, read};

/// A part of the columns of rows of `k`.
fn columns(values: &[f32], k: usize, part: std::ops::Range<usize>) -> Vec<f32> {
    values
        .chunks(k)
        .flat_map(|row| &row[part.clone()])
        .copied()
        .collect()
}

fn matrix<B: Backend>(backend: &B, values: &[f32], k: usize) -> B::Weight {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
        .collect();
    let tensor = HostTensor::new(WeightFormat::BF16, values.len() / k, k, bytes.into());
    backend.prepare_weight(&[tensor]).expect("memory")
}

/// What a product adds to the residual and the product after it, whose norm may be owed; x (rows, k), weight (n, k).
struct Chained<B: Backend> {
    x: B::Buffer,
    weight: B::Weight,
    norm: B::Buffer,
    next: B::Weight,
    residual: B::Buffer,
    scratch: B::Buffer,
    normed: Normed<B>,
    out: B::Buffer,
}

impl<B: Backend> Chained<B> {
    fn new(backend: &B, (x, k): (&[f32], usize), weight: &[f32], norm: &[f32], next: &[f32]) -> Self {
        let (rows, n) = (x.len() / k, norm.len());
        let filled = |values: &[f32], mut buffer: B::Buffer| {
            backend.write(values, &mut buffer).expect("room");
            buffer
        };
        Self {
            x: filled(x, backend.alloc(x.len()).expect("memory")),
            weight: matrix(backend, weight, k),
            norm: filled(norm, backend.alloc_f32(n).expect("memory")),
            next: matrix(backend, next, n),
            residual: filled(&vec![0.5; rows * n], backend.alloc_f32(rows * n).expect("memory")),
            scratch: backend.alloc(rows * n).expect("memory"),
            normed: backend.alloc_normed(rows, n).expect("memory"),
            out: backend.alloc_f32(rows * next.len() / n).expect("memory"),
        }
    }

    fn run(&mut self, backend: &B, rows: usize, n: usize) -> Result<(), BackendError> {
        let product = LinearArguments {
            x: &self.x,
            weight: &self.weight,
            bias: None,
        };
        let norm = RmsNormWeight {
            weight: &self.norm,
            eps: EPS,
        };
        let buffers = (&mut self.scratch, &mut self.residual);
        backend.linear_add_norm(product, norm, (rows, n), buffers, &mut self.normed)?;
        backend.normed_linear(&mut self.normed, &self.next, None, rows, &mut self.out)
    }
}

#[test]
fn a_product_whose_parts_of_k_lie_on_two_gpus_is_added_and_normed_as_on_the_cpu() {
    let _alone = alone();
    const NEXT: usize = 48;
    // Of models; narrower than there are multiprocessors; of 8192 outputs, as wide as there is room for.
    let shapes = [
        (2560, 4096),
        (2560, 9728),
        (4096, 14_336),
        (576, 1536),
        (96, 512),
        (8192, 256),
        (1024, 3072),
    ];
    let cpu = CpuBackend::new(8);
    let ranks = gpus(Element::Bf16, Link::Best);
    for (n, k) in shapes {
        for rows in [1, 3, 8, 9, 16, 17] {
            let mut seeds = 1..;
            let mut values = |len| random(Element::Bf16, seeds.next().expect("a seed"), len);
            let (x, weight) = (values(rows * k), values(n * k));
            let (norm, next) = (values(n), values(NEXT * n));
            let mut expected = Chained::new(&cpu, (&x, k), &weight, &norm, &next);
            expected.run(&cpu, rows, n).expect("products");
            let results = on_each(&ranks, |rank, backend| {
                let own = rank * k / 2..(rank + 1) * k / 2;
                let (x, weight) = (columns(&x, k, own.clone()), columns(&weight, k, own));
                let mut chained = Chained::new(backend, (&x, k / 2), &weight, &norm, &next);
                chained.run(backend, rows, n).expect("products");
                (
                    read(backend, &chained.residual, rows * n),
                    read(backend, &chained.out, rows * NEXT),
                )
            });
            assert_eq!(
                results[0], results[1],
                "every rank has the same bits, {rows} x {n} x {k}"
            );
            let what = |i: usize| format!("{rows} x {n} x {k}, element {i}");
            let (residual, out) = &results[0];
            // Elements of x and weights are uniform in -1..=1: of a third's mean square. Each addition rounds what has been
            // summed so far (tensor cores cut off, at twice the size); where there are more than 16 rows, both parts and their
            // sum, all within five deviations, are rounded to half precision.
            let deviation = (k as f64).sqrt() / 3.0;
            let sums = 8.0 * deviation * 2.0_f64.powi(-23) * (k as f64).sqrt();
            let rounded = if rows > 16 { 3.0 * 2.0_f64.powi(-9) } else { 0.0 };
            for (i, (got, wanted)) in residual.iter().zip(&expected.residual[..]).enumerate() {
                let allowed = sums + 5.0 * rounded * deviation;
                assert!(
                    f64::from((got - wanted).abs()) <= allowed,
                    "{}: {got} {wanted}",
                    what(i)
                );
            }
            // Elements of the norm's result, of a third's mean square, are rounded once, twice with a norm of its own, and are
            // off as far as the residual is: eight deviations of a sum of n of them.
            let each = 2.0 * 2.0_f64.powi(-9) + rounded;
            let allowed = 8.0 * each * (n as f64).sqrt() / 3.0;
            for (i, (got, wanted)) in out.iter().zip(&expected.out[..]).enumerate() {
                assert!(
                    f64::from((got - wanted).abs()) <= allowed,
                    "{}: {got} {wanted}, {allowed}",
                    what(i)
                );
            }
        }
    }
}

#[test]
fn recorded_products_over_gpus_count_their_turns() {
    let _alone = alone();
    let (n, k, runs) = (2560, 1024, 200);
    let (x, weight) = (random(Element::Bf16, 1, 16 * k), random(Element::Bf16, 2, n * k));
    let (norm, next) = (vec![1.0; n], random(Element::Bf16, 3, 48 * n));
    let ranks = gpus(Element::Bf16, Link::Best);
    let results = on_each(&ranks, |rank, backend| {
        let own = rank * k / 2..(rank + 1) * k / 2;
        let (x, weight) = (columns(&x, k, own.clone()), columns(&weight, k, own));
        let mut chained = Chained::new(backend, (&x, k / 2), &weight, &norm, &next);
        let mut once = vec![0.0; 16 * n];
        let mut recorded = Recorded::default();
        for run in 0..runs {
            let rows = [1, 16, 9, 8][run % 4];
            let shape = StepShape {
                num_seqs: rows,
                max_blocks: 1,
            };
            let mut launch = || chained.run(backend, rows, n);
            backend
                .run_recorded(&mut recorded, shape, &mut launch)
                .expect("a step");
            if run < 4 {
                once = read(backend, &chained.residual, 16 * n);
            }
        }
        (once, read(backend, &chained.residual, 16 * n))
    });
    assert_eq!(results[0], results[1], "every rank has the same bits");
    // Each run has added as much as those of the first four have; a sum of 50 rounds 50 times.
    for (once, all) in results[0].0.iter().zip(&results[0].1) {
        let expected = 0.5 + (once - 0.5) * (runs / 4) as f32;
        let allowed = 60.0 * 2.0_f32.powi(-23) * (expected.abs() + 100.0);
        assert!((all - expected).abs() <= allowed, "{all}, expected {expected}");
    }
}
