//! A product, the residual sum, its norm and the product after it, whoever makes the norm.

use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    backend::BackendTypes,
    cpu::{CpuBackend, CpuBuffer},
    cuda::{CudaBackend, CudaBuffer, CudaWeight, Element},
    ops::{ActivationOps, LinearArguments, LinearOps, Normed, RmsNormWeight},
};

use crate::{
    int4::{dense_rows, shuffled, size},
    linear::format,
    support::Random,
    twin::{ELEMENTS, Twin, unit},
};

const EPS: f32 = 1e-6;

/// What goes into both products, on a device: x (rows, k), its weight (width, k), the norm's weight, the next weight (n, width).
struct Inputs<B: Backend> {
    x: B::Buffer,
    first: B::Weight,
    bias: Option<B::Buffer>,
    norm: B::Buffer,
    next: B::Weight,
}

/// On both, with what the residual is before and what x is.
struct Case {
    gpu: Inputs<CudaBackend>,
    cpu: Inputs<CpuBackend>,
    values: Vec<f32>,
    sums: Vec<f32>,
    width: usize,
    k: usize,
    n: usize,
    /// Roots of the mean square of both weights.
    means: [f64; 2],
}

/// Sums of products with weights of that mean in another order: each addition rounds (tensor cores cut off, at twice the size)
/// what has been summed so far, which grows like a random walk; eight deviations.
fn sum_error(x: &[f32], mean: f64) -> f64 {
    8.0 * mean * size(x) * 2.0_f64.powi(-23) * (x.len() as f64).sqrt()
}

/// Of x, at most.
const ROWS: usize = 64;

/// A matrix for the GPU, and what the CPU has of it in f32, with the root of its elements' mean square.
fn matrix(twin: &Twin, matrix: HostTensor) -> (CudaWeight, <CpuBackend as BackendTypes>::Weight, f64) {
    let (n, k) = (matrix.rows, matrix.cols);
    let parts = [matrix];
    let dense = dense_rows(&parts);
    let mean = size(&dense) / (dense.len() as f64).sqrt();
    let bytes: Vec<u8> = dense.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dense = HostTensor::new(WeightFormat::F32, n, k, bytes.into());
    (
        twin.gpu.prepare_weight(&parts).expect("memory"),
        twin.cpu.prepare_weight(&[dense]).expect("memory"),
        mean,
    )
}

impl Case {
    /// A first weight (width, k) and a next one (n, width).
    fn new(twin: &Twin, random: &mut Random, [first, next]: [HostTensor; 2], biased: bool) -> Self {
        let (width, k, n) = (first.rows, first.cols, next.rows);
        let values = twin.random(random, ROWS * k);
        let (x, cpu_x) = twin.buffers(&values);
        let (bias, cpu_bias) = twin.vectors(&(0..width).map(|_| random.unit()).collect::<Vec<_>>());
        let (norm, cpu_norm) = twin.vectors(&(0..width).map(|_| 1.0 + random.unit()).collect::<Vec<_>>());
        let ((first, cpu_first, first_mean), (next, cpu_next, next_mean)) =
            (matrix(twin, first), matrix(twin, next));
        Self {
            gpu: Inputs {
                x,
                first,
                bias: biased.then_some(bias),
                norm,
                next,
            },
            cpu: Inputs {
                x: cpu_x,
                first: cpu_first,
                bias: biased.then_some(cpu_bias),
                norm: cpu_norm,
                next: cpu_next,
            },
            values,
            sums: (0..ROWS * width).map(|_| 3.0 * random.unit()).collect(),
            width,
            k,
            n,
            means: [first_mean, next_mean],
        }
    }

    /// Adds the first product to the residual: that, and what the norm leaves.
    fn add<B: Backend>(&self, backend: &B, inputs: &Inputs<B>, rows: usize) -> (B::Buffer, Normed<B>) {
        let len = rows * self.width;
        let mut residual = backend.alloc_f32(len).expect("memory");
        backend.write(&self.sums[..len], &mut residual).expect("room");
        let mut scratch = backend.alloc(len).expect("memory");
        let mut normed = backend.alloc_normed(rows, self.width).expect("memory");
        backend.write(&vec![f32::NAN; len], normed.whole()).expect("room");
        let product = LinearArguments {
            x: &inputs.x,
            weight: &inputs.first,
            bias: inputs.bias.as_ref(),
        };
        let norm = RmsNormWeight {
            weight: &inputs.norm,
            eps: EPS,
        };
        let buffers = (&mut scratch, &mut residual);
        backend
            .linear_add_norm(product, norm, (rows, self.width), buffers, &mut normed)
            .expect("a sum and its norm");
        (residual, normed)
    }

    fn next(&self, twin: &Twin, normed: &mut Normed<CudaBackend>, rows: usize) -> CudaBuffer {
        let (mut out, _) = twin.outputs(rows * self.n);
        twin.gpu
            .normed_linear(normed, &self.gpu.next, None, rows, &mut out)
            .expect("a product");
        out
    }

    fn gated(
        &self,
        twin: &Twin,
        normed: &mut Normed<CudaBackend>,
        weight: &CudaWeight,
        rows: usize,
    ) -> CudaBuffer {
        let ((mut scratch, _), (mut out, _)) = (twin.outputs(rows * self.n), twin.outputs(rows * self.n / 2));
        let shape = (rows, self.n / 2);
        twin.gpu
            .normed_linear_silu_mul(normed, weight, None, shape, (&mut scratch, &mut out))
            .expect("a product");
        out
    }

    /// How far an element of the next product may be off: the sum's own error; and each element of its x, rounded twice
    /// before the norm (the product, its bias), once after it and once more where a device multiplies by the scale late: eight
    /// deviations of their sum; and the scale's error, of as many roundings.
    fn allowed(&self, element: Element, normed: &[f32], y: f32) -> f64 {
        let (rounded, mean) = (4.0 * unit(element) / 3.0_f64.sqrt(), self.means[1]);
        sum_error(normed, mean)
            + 8.0 * rounded * mean * size(normed)
            + 8.0 * rounded / (self.width as f64).sqrt() * f64::from(y.abs())
    }

    fn check(&self, twin: &Twin, rows: usize) {
        let (width, n) = (self.width, self.n);
        let (expected, cpu_normed) = self.add_on_cpu(twin, rows);
        let (residual, mut normed) = self.add(&twin.gpu, &self.gpu, rows);
        let what = format!("{rows} rows, {width} x {}, then {n}", self.k);
        twin.check(&format!("residual, {what}"), &residual, &expected, |i, sum| {
            let product = f64::from((sum - self.sums[i]).abs());
            // Without tensor cores, and by cuBLASLt, a bias is added after a rounding.
            let rounded =
                2.0 * unit(twin.element) * (product + 1.0) + 2.0_f64.powi(-22) * f64::from(sum.abs());
            sum_error(&self.values[i / width * self.k..][..self.k], self.means[0]) + rounded
        });
        let row = |i: usize| &cpu_normed[i / n * width..][..width];
        let mut products = twin.cpu.alloc(rows * n).expect("memory");
        let x = twin.buffers(&cpu_normed).1;
        twin.cpu
            .linear(&x, &self.cpu.next, None, rows, &mut products)
            .expect("a product");
        let mut activated = twin.cpu.alloc(rows * n / 2).expect("memory");
        twin.cpu
            .silu_mul(&products, rows, n / 2, &mut activated)
            .expect("activations");
        let gated = self.gated(twin, &mut normed, &self.gpu.next, rows);
        twin.check(
            &format!("gated, {what}"),
            &gated,
            &activated[..rows * n / 2],
            |i, _| {
                let at = i / (n / 2) * n + i % (n / 2);
                let [gate, up] = [products[at], products[at + n / 2]];
                let error =
                    |y: f32| self.allowed(twin.element, row(at), y) + unit(twin.element) * f64::from(y.abs());
                let (size, slope) = (f64::from(gate.abs()), 1.1); // of silu, at most
                error(gate) * slope * (f64::from(up.abs()) + error(up))
                    + error(up) * size
                    + 2.0_f64.powi(-18) * size * f64::from(up.abs())
            },
        );
        let out = self.next(twin, &mut normed, rows);
        twin.check(&what, &out, &products[..rows * n], |i, y| {
            self.allowed(twin.element, row(i), y)
        });
    }

    fn add_on_cpu(&self, twin: &Twin, rows: usize) -> (CpuBuffer, Vec<f32>) {
        let (residual, mut normed) = self.add(&twin.cpu, &self.cpu, rows);
        let values = normed.whole().to_vec();
        (residual, values)
    }
}

#[test]
fn a_sum_and_the_products_after_its_norm_equal_the_cpu() {
    // (hidden, k, n): output then some of gate and up, down then some of q/k/v, of Qwen3-4B; more columns than a block sums up at
    // once; the same of Qwen3-0.6B and SmolLM2-135M; odd ones.
    let shapes = [
        (2560, 4096, 6144),
        (2560, 9728, 2048),
        (5120, 2048, 1000),
        (1024, 2048, 6144),
        (1024, 3072, 4096),
        (576, 1536, 960),
        (136, 64, 98),
        (33, 40, 24),
        (1, 8, 2),
    ];
    for element in ELEMENTS {
        let twin = Twin::new(element);
        let mut random = Random(1);
        // The others have kernels of their own for each part, which other tests compare at all shapes.
        let skipped = if element == Element::Bf16 { 0 } else { 4 };
        let cases = shapes.into_iter().enumerate().skip(skipped);
        check_shapes(&twin, &mut random, cases, [[1, 16], [9, 17], [4, 8]]);
    }
}

#[test]
fn they_do_in_batches_of_up_to_64_rows_with_two_products_for_few_rows() {
    // As above, with halves of Qwen3-4B and Llama 8B; wider than clusters share out; odd ones.
    let shapes = [
        (2560, 4096, 6144),
        (2560, 9728, 1024),
        (2560, 2048, 3072),
        (4096, 4096, 2048),
        (8192, 1024, 512),
        (1024, 3072, 4096),
        (576, 1536, 960),
        (136, 64, 98),
        (35, 40, 24),
        (1, 8, 2),
    ];
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(5);
    let rows = [[4, 33, 64], [16, 17, 48], [5, 32, 63]];
    check_shapes(&twin, &mut random, shapes.into_iter().enumerate(), rows);
}

/// Numbered shapes (width, k, n), every other with a bias, each at some rows.
fn check_shapes<const N: usize>(
    twin: &Twin,
    random: &mut Random,
    shapes: impl Iterator<Item = (usize, (usize, usize, usize))>,
    rows: [[usize; N]; 3],
) {
    for (number, (width, k, n)) in shapes {
        let weights = [(width, k), (n, width)].map(|(n, k)| random.matrix(format(twin.element), n, k));
        let case = Case::new(twin, random, weights, number % 2 == 1);
        rows[number % 3]
            .into_iter()
            .for_each(|rows| case.check(twin, rows));
    }
}

#[test]
fn they_do_with_weights_at_four_bits_and_of_both_kinds() {
    use WeightFormat::{BF16, Int4G32, Int4G64, Int4G128};
    let cases = [
        ((2560, 4096, 6144), [Int4G128, Int4G128]),
        ((2560, 9728, 2048), [Int4G128, Int4G128]),
        ((1024, 3072, 4096), [Int4G32, Int4G64]),
        ((576, 1536, 960), [Int4G64, Int4G32]),
        ((2560, 9728, 1000), [BF16, Int4G128]),
        ((2560, 9728, 1000), [Int4G128, BF16]),
        ((256, 9216, 100), [Int4G128, Int4G64]),
        ((96, 64, 24), [Int4G64, Int4G32]),
    ];
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(4);
    for (case, ((width, k, n), formats)) in cases.into_iter().enumerate() {
        let some = [[1, 16, 64], [9, 17, 33], [4, 8, 48]][case % 3];
        let mut weights = [(formats[0], width, k), (formats[1], n, width)]
            .map(|(format, n, k)| random.matrix(format, n, k));
        if case % 4 == 3 {
            weights = weights.map(|weight| shuffled(&mut random, weight));
        }
        let case = Case::new(&twin, &mut random, weights, case % 2 == 1);
        some.into_iter().for_each(|rows| case.check(&twin, rows));
    }
}

#[test]
fn a_row_has_the_same_bits_again_and_in_company_of_which_one_kernel_makes_the_products() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(2);
    let large = [(2560, 3328), (3400, 2560)];
    let small = [(2560, 1152), (1000, 2560)];
    for (format, most, shapes) in [
        (WeightFormat::BF16, 3, large),
        (WeightFormat::BF16, 2, small),
        (WeightFormat::Int4G128, 16, small),
    ] {
        let weights = shapes.map(|(n, k)| random.matrix(format, n, k));
        check_company(&twin, &Case::new(&twin, &mut random, weights, true), most);
    }
}

fn check_company(twin: &Twin, case: &Case, most: usize) {
    let run = |rows: usize| {
        let (residual, mut normed) = case.add(&twin.gpu, &case.gpu, rows);
        let gated = case.gated(twin, &mut normed, &case.gpu.next, rows);
        let out = case.next(twin, &mut normed, rows);
        let n = case.n;
        [(residual, 2560), (gated, n / 2), (out, n)].map(|(buffer, n)| twin.read(&buffer, rows * n))
    };
    let together = run(most);
    for rows in [most, 1, 2, most / 2, most / 2 + 1, most - 1] {
        for (some, all) in run(rows).iter().zip(&together) {
            assert_eq!(some[..], all[..some.len()], "{rows} rows");
        }
    }
    // Other bits, but each time the same.
    for rows in [5, 9, 16, 33, 64] {
        assert_eq!(run(rows), run(rows), "{rows} rows");
    }
}

#[test]
fn what_a_product_does_not_pay_is_paid_before_it() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(3);
    let weights = [(1024, 2048), (512, 1024)].map(|(n, k)| random.matrix(WeightFormat::BF16, n, k));
    let case = Case::new(&twin, &mut random, weights, false);
    let matrix = random.matrix(WeightFormat::Q8_0, 512, 1024);
    let other = twin.gpu.prepare_weight(&[matrix]).expect("memory");
    for rows in [1, 7, 16, 33] {
        let (_, cpu_normed) = case.add_on_cpu(&twin, rows);
        let (_, mut normed) = case.add(&twin.gpu, &case.gpu, rows);
        let gated = case.gated(&twin, &mut normed, &other, rows);
        // Its x has the norm's size now, and nothing is owed any more.
        twin.check("what the norm leaves", normed.whole(), &cpu_normed, |_, y| {
            3.0 * unit(twin.element) * (f64::from(y.abs()) + 1.0)
        });
        let again = case.gated(&twin, &mut normed, &other, rows);
        let [gated, again] = [gated, again].map(|buffer| twin.read(&buffer, rows * 256));
        assert!(gated.iter().all(|y| y.is_finite()));
        assert_eq!(gated, again, "{rows} rows");
    }
}
