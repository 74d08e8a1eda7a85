//! Sums and gathers over ranks, here threads of one process.

#[allow(dead_code)] // the other tests use the rest
mod support;

use std::{thread, time::Duration};

use ferrum_kernels::{
    Backend, BackendError, HostTensor, WeightFormat,
    cpu::{CpuBackend, CpuBuffer},
    ops::{CollectiveOps, GatheredColumns, LinearArguments, LinearOps, NormOps, Rank, RmsNormWeight},
};
use support::Random;

const PATIENCE: Duration = Duration::from_secs(60);

fn buffer(backend: &CpuBackend, values: &[f32]) -> CpuBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("room");
    buffer
}

/// What each rank's `run` gives, in their order.
fn on_each<T: Send>(ranks: &[CpuBackend], run: impl Fn(&CpuBackend) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(|| run(rank))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.expect("a rank")).collect()
    })
}

fn values(rank: Rank, len: usize) -> Vec<f32> {
    let mut random = Random(1 + rank.index as u64);
    (0..len).map(|_| random.unit()).collect()
}

#[test]
fn every_rank_has_the_sum_in_the_order_of_ranks() {
    for count in [1, 2, 3, 8] {
        let ranks = CpuBackend::ranks(count, 1, PATIENCE);
        let rank = |index| values(Rank { index, count }, 100);
        let expected: Vec<f32> = (0..100)
            .map(|i| (1..count).fold(rank(0)[i], |sum, index| sum + rank(index)[i]))
            .collect();
        // Again and again: one exchange must not take from another.
        let sums = on_each(&ranks, |backend| {
            let runs = (0..50).map(|_| {
                let mut x = buffer(backend, &values(backend.rank(), 100));
                backend.all_reduce(&mut x, 100).expect("a sum");
                x.to_vec()
            });
            runs.collect::<Vec<_>>()
        });
        assert!(sums.iter().flatten().all(|sum| *sum == expected), "{count} ranks");
    }
}

#[test]
fn the_fusion_with_residual_and_norm_is_its_parts() {
    let (rows, width, eps) = (3, 40, 1e-5);
    let len = rows * width;
    let ranks = CpuBackend::ranks(2, 1, PATIENCE);
    let results = on_each(&ranks, |backend| {
        let weight = buffer(backend, &values(Rank { index: 7, count: 8 }, width));
        let sums = values(Rank { index: 6, count: 8 }, len);
        let (mut x, mut residual, mut out) = (
            buffer(backend, &values(backend.rank(), len)),
            buffer(backend, &sums),
            backend.alloc(len).expect("memory"),
        );
        backend
            .all_reduce_add_norm(&mut x, &mut residual, &weight, eps, (rows, width), &mut out)
            .expect("a norm");
        let (mut x, mut other, mut parts) = (
            buffer(backend, &values(backend.rank(), len)),
            buffer(backend, &sums),
            backend.alloc(len).expect("memory"),
        );
        backend.all_reduce(&mut x, len).expect("a sum");
        backend
            .add_rms_norm(&x, &mut other, &weight, eps, (rows, width), &mut parts)
            .expect("a norm");
        assert_eq!((&residual[..], &out[..]), (&other[..], &parts[..]));
        out.to_vec()
    });
    assert_eq!(results[0], results[1], "every rank has the same bits");
}

/// Rows `own` of a matrix `(n, k)` of small integers, whose products are exact.
fn weight(
    backend: &CpuBackend,
    own: std::ops::Range<usize>,
    k: usize,
) -> <CpuBackend as ferrum_kernels::backend::BackendTypes>::Weight {
    let bytes: Vec<u8> = own
        .clone()
        .flat_map(|row| (0..k).map(move |col| ((row * 7 + col * 3) % 11) as f32 - 5.0))
        .flat_map(f32::to_le_bytes)
        .collect();
    let tensor = HostTensor::new(WeightFormat::F32, own.len(), k, bytes.into());
    backend.prepare_weight(&[tensor]).expect("a weight")
}

#[test]
fn every_rank_has_the_indices_of_the_first() {
    for count in [1, 2, 3] {
        let ranks = CpuBackend::ranks(count, 1, PATIENCE);
        let shared = on_each(&ranks, |backend| {
            let own = backend.rank().index as u32;
            // The second is no number as a float.
            let mut indices = backend.alloc_indices(3).expect("memory");
            backend
                .write_indices(&[own + 5, 0x7f80_0001 + own, 40 + own], &mut indices)
                .expect("room");
            backend.share_indices(&mut indices, 2).expect("the first's");
            indices.to_vec()
        });
        for (own, indices) in shared.iter().enumerate() {
            assert_eq!(
                *indices,
                [5, 0x7f80_0001, 40 + own as u32],
                "rank {own} of {count}"
            );
        }
    }
}

#[test]
fn columns_of_all_ranks_come_together_on_the_first() {
    let (rows, n, k) = (3, 50, 8);
    let x: Vec<f32> = (0..rows * k).map(|i| (i % 5) as f32 - 2.0).collect();
    let single = CpuBackend::new(1);
    let mut expected = single.alloc(rows * n).expect("memory");
    single
        .linear(
            &buffer(&single, &x),
            &weight(&single, 0..n, k),
            None,
            rows,
            &mut expected,
        )
        .expect("a product");
    for count in [1, 2, 3] {
        let ranks = CpuBackend::ranks(count, 1, PATIENCE);
        let results = on_each(&ranks, |backend| {
            let index = backend.rank().index;
            let own = index * n / count..(index + 1) * n / count;
            let mut part = backend.alloc(rows * own.len()).expect("memory");
            let mut out = backend.alloc(rows * n).expect("memory");
            let columns = GatheredColumns {
                part: &mut part,
                own: own.clone(),
                total: n,
            };
            backend
                .gathered_linear(
                    &buffer(backend, &x),
                    &weight(backend, own, k),
                    rows,
                    columns,
                    &mut out,
                )
                .expect("a product");
            out.to_vec()
        });
        assert_eq!(results[0], expected[..], "{count} ranks");
        assert!(results[1..].iter().flatten().all(|&x| x == 0.0));
    }
}

#[test]
fn a_product_its_sum_and_norm_and_the_products_after_are_their_parts() {
    let (rows, width, k, n, eps) = (3, 40, 8, 12, 1e-5);
    let ranks = CpuBackend::ranks(2, 1, PATIENCE);
    let results = on_each(&ranks, |backend| {
        let new = |len| backend.alloc(len).expect("memory");
        let x = buffer(backend, &values(backend.rank(), rows * k));
        let [bias, norm] = [6, 7].map(|index| buffer(backend, &values(Rank { index, count: 8 }, width)));
        let sums = values(Rank { index: 5, count: 8 }, rows * width);
        let (first, next) = (weight(backend, 0..width, k), weight(backend, 0..2 * n, width));
        let shape = (rows, width);

        let (mut residual, mut scratch) = (buffer(backend, &sums), new(rows * width));
        let mut normed = backend.alloc_normed(rows, width).expect("memory");
        let product = LinearArguments {
            x: &x,
            weight: &first,
            bias: Some(&bias),
        };
        let with = RmsNormWeight { weight: &norm, eps };
        backend
            .linear_add_norm(product, with, shape, (&mut scratch, &mut residual), &mut normed)
            .expect("a norm");
        let (mut out, mut gate_up, mut gated) = (new(rows * 2 * n), new(rows * 2 * n), new(rows * n));
        backend
            .normed_linear(&mut normed, &next, None, rows, &mut out)
            .expect("a product");
        backend
            .normed_linear_silu_mul(&mut normed, &next, None, (rows, n), (&mut gate_up, &mut gated))
            .expect("a product");

        let (mut other, mut whole) = (buffer(backend, &sums), new(rows * width));
        backend
            .linear(&x, &first, Some(&bias), rows, &mut scratch)
            .expect("a product");
        backend
            .all_reduce_add_norm(&mut scratch, &mut other, &norm, eps, shape, &mut whole)
            .expect("a norm");
        assert_eq!((&residual[..], &normed.whole()[..]), (&other[..], &whole[..]));
        let (mut parts, mut gated_parts) = (new(rows * 2 * n), new(rows * n));
        backend
            .linear(&whole, &next, None, rows, &mut parts)
            .expect("a product");
        backend
            .linear_silu_mul(&whole, &next, None, (rows, n), (&mut gate_up, &mut gated_parts))
            .expect("a product");
        assert_eq!((&out[..], &gated[..]), (&parts[..], &gated_parts[..]));
        out.to_vec()
    });
    assert_eq!(results[0], results[1], "every rank has the same bits");
}

fn failure(result: Result<(), BackendError>) -> String {
    result.expect_err("a failure").to_string()
}

#[test]
fn a_rank_that_leaves_ends_the_waiting_of_others() {
    let ranks = CpuBackend::ranks(2, 1, PATIENCE);
    let failures = on_each(&ranks, |backend| {
        if backend.rank().index == 1 {
            backend.leave();
        }
        let mut x = buffer(backend, &[1.0]);
        failure(backend.all_reduce(&mut x, 1))
    });
    assert_eq!(failures, ["cpu: rank 1 has left"; 2]);
}

#[test]
fn a_rank_that_does_not_come_is_waited_for_no_longer_than_allowed() {
    let ranks = CpuBackend::ranks(2, 1, Duration::from_millis(20));
    let mut x = buffer(&ranks[0], &[1.0]);
    let failure = failure(ranks[0].all_reduce(&mut x, 1));
    assert!(failure.contains("rank 0 has waited 20ms"), "{failure}");
}
