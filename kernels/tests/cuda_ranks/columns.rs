//! Columns of a product that lie on several GPUs, brought together.

use ferrum_kernels::{
    Backend, HostTensor, WeightFormat,
    cuda::{CudaBackend, CudaWeight, Element, Link},
    ops::{CollectiveOps, GatheredColumns, LinearOps},
};

use crate::{LINKS, alone, buffer, exact_buffer, gpus, on_each, read};

/// Rows of a matrix `(n, k)` of small integers, whose products are exact.
fn weight(backend: &CudaBackend, own: std::ops::Range<usize>, k: usize) -> CudaWeight {
    let values = own
        .clone()
        .flat_map(|row| (0..k).map(move |col| ((row * 7 + col * 3) % 11) as f32 - 5.0));
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let tensor = HostTensor::new(WeightFormat::F32, own.len(), k, bytes.into());
    backend.prepare_weight(&[tensor]).expect("a weight")
}

#[test]
fn columns_of_all_ranks_come_together_on_the_first() {
    let _alone = alone();
    LINKS.into_iter().for_each(gather_columns);
}

fn gather_columns(link: Link) {
    let ranks = gpus(Element::Bf16, link);
    for (rows, n, k) in [(1, 151_936, 64), (5, 32_000, 64), (64, 50_257, 32), (3, 51, 16)] {
        let x: Vec<f32> = (0..rows * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let results = on_each(&ranks, |rank, backend| {
            let cut = n / 2 / 16 * 16;
            let own = [0..cut, cut..n][rank].clone();
            let mut part = exact_buffer(backend, &vec![f32::NAN; rows * own.len()]);
            let mut out = exact_buffer(backend, &vec![f32::NAN; if rank == 0 { rows * n } else { 0 }]);
            let (x, weight) = (buffer(backend, &x), weight(backend, own.clone(), k));
            // Once more: the first must have been read before it is written again, by way of a sum.
            for _ in 0..2 {
                let columns = GatheredColumns {
                    part: &mut part,
                    own: own.clone(),
                    total: n,
                };
                backend
                    .gathered_linear(&x, &weight, rows, columns, &mut out)
                    .expect("a product");
                backend
                    .all_reduce(&mut buffer(backend, &[1.0]), 1)
                    .expect("a sum");
            }
            read(backend, &out, if rank == 0 { rows * n } else { 0 })
        });
        let single = CudaBackend::new(0, Element::Bf16).expect("a GPU");
        let mut out = exact_buffer(&single, &vec![f32::NAN; rows * n]);
        single
            .linear(
                &buffer(&single, &x),
                &weight(&single, 0..n, k),
                None,
                rows,
                &mut out,
            )
            .expect("a product");
        assert!(results[0] == read(&single, &out, rows * n), "{rows} x {n} x {k}");
    }
}
