//! Sums and gathers over GPUs against the CPU, each way of connecting them. Needs two GPUs that reach one another's memory, and
//! NCCL.

mod columns;
mod products;
#[allow(dead_code)] // the other tests use the rest
#[path = "../support/mod.rs"]
mod support;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ferrum_kernels::{
    Backend,
    backend::StepShape,
    cpu::CpuBackend,
    cuda::{CudaBackend, CudaBuffer, Element, Link, Recorded},
    ops::{ActivationOps, CollectiveOps, NormOps},
};
use half::{bf16, f16};
use support::Random;

const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];
const EPS: f32 = 1e-5;
const RANKS: usize = 2;
const LINKS: [Link; 2] = [Link::Best, Link::Nccl];

/// One test at a time: kernels of GPUs that share a model wait for one another, and what another test does beside them (giving
/// back a device waits for all of its kernels, and recordings for that) could keep the second from being asked for.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpus(element: Element, link: Link) -> Vec<CudaBackend> {
    CudaBackend::ranks(RANKS, element, link).expect("two GPUs")
}

fn everywhere() -> impl Iterator<Item = (Element, Link)> {
    ELEMENTS
        .into_iter()
        .flat_map(|element| LINKS.map(|link| (element, link)))
}

/// What each rank's `run` gives, in their order.
fn on_each<T: Send>(ranks: &[CudaBackend], run: impl Fn(usize, &CudaBackend) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = ranks
            .iter()
            .map(|backend| scope.spawn(move || run(backend.rank().index, backend)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.expect("a rank")).collect()
    })
}

fn round(element: Element, x: f32) -> f32 {
    match element {
        Element::F32 => x,
        Element::F16 => f16::from_f32(x).to_f32(),
        Element::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

fn random(element: Element, seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| round(element, random.unit())).collect()
}

/// The rounded sum of what the ranks have.
fn sum(element: Element, parts: &[Vec<f32>]) -> Vec<f32> {
    (0..parts[0].len())
        .map(|i| round(element, parts.iter().map(|part| part[i]).sum()))
        .collect()
}

fn buffer(backend: &CudaBackend, values: &[f32]) -> CudaBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("room");
    buffer
}

fn exact_buffer(backend: &CudaBackend, values: &[f32]) -> CudaBuffer {
    let mut buffer = backend.alloc_f32(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("room");
    buffer
}

fn read(backend: &CudaBackend, buffer: &CudaBuffer, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    backend.read_into(buffer, &mut values).expect("a result");
    values
}

#[test]
fn sums_of_any_length_are_those_of_the_cpu_on_every_rank() {
    let _alone = alone();
    // 5 to 80 KiB of 16-bit elements, odd ones, several chunks, several chunks a block.
    let lens = [1, 7, 2560, 4 * 2560, 16 * 2560 + 5, 32_769, 1 << 20, 12_345_678];
    for (element, link) in everywhere() {
        let ranks = gpus(element, link);
        for len in lens {
            let parts: Vec<Vec<f32>> = (0..RANKS)
                .map(|rank| random(element, 1 + rank as u64, len))
                .collect();
            let expected = sum(element, &parts);
            let sums = on_each(&ranks, |rank, backend| {
                let mut x = buffer(backend, &parts[rank]);
                backend.all_reduce(&mut x, len).expect("a sum");
                read(backend, &x, len)
            });
            assert!(
                sums.iter().all(|sum| *sum == expected),
                "{} x {len}",
                element.name()
            );
        }
    }
}

#[test]
fn the_sum_with_residual_and_norm_equals_its_parts_and_the_cpu() {
    let _alone = alone();
    // The last go in bulk: odd, too wide for lines, and too large; one is several rows a block.
    let shapes = [
        (1, 576),
        (1, 2560),
        (3, 896),
        (4, 2560),
        (16, 2560),
        (17, 5120),
        (2, 8192),
        (64, 2560),
        (160, 2560),
        (5, 33),
        (1, 16_384),
        (700, 1024),
    ];
    let cpu = CpuBackend::new(4);
    for (element, link) in everywhere() {
        let ranks = gpus(element, link);
        for (rows, width) in shapes {
            let len = rows * width;
            let parts: Vec<Vec<f32>> = (0..RANKS)
                .map(|rank| random(element, 1 + rank as u64, len))
                .collect();
            let sums: Vec<f32> = random(Element::F32, 7, len).iter().map(|x| 3.0 * x).collect();
            let weights = random(Element::F32, 8, width);
            let results = on_each(&ranks, |rank, backend| {
                let weight = exact_buffer(backend, &weights);
                let run = |whole: bool| {
                    let (mut x, mut residual) = (buffer(backend, &parts[rank]), exact_buffer(backend, &sums));
                    let mut out = buffer(backend, &vec![f32::NAN; len]);
                    let shape = (rows, width);
                    if whole {
                        backend
                            .all_reduce_add_norm(&mut x, &mut residual, &weight, EPS, shape, &mut out)
                            .expect("a norm");
                    } else {
                        backend.all_reduce(&mut x, len).expect("a sum");
                        backend
                            .add_rms_norm(&x, &mut residual, &weight, EPS, shape, &mut out)
                            .expect("a norm");
                    }
                    (read(backend, &residual, len), read(backend, &out, len))
                };
                let whole = run(true);
                assert!(
                    whole == run(false),
                    "{} {rows} x {width}: the parts",
                    element.name()
                );
                whole
            });
            let what = format!("{} {rows} x {width}", element.name());
            assert!(results[0] == results[1], "{what}: every rank has the same bits");
            let mut expected = sums.clone();
            expected
                .iter_mut()
                .zip(sum(element, &parts))
                .for_each(|(r, x)| *r += x);
            assert!(results[0].0 == expected, "{what}: the residual");
            check_norm(&cpu, &results[0].1, (&expected, &weights), element, &what);
        }
    }
}

/// As in tests/cuda/norm.rs: a sum of `width` squares and the roundings around it.
fn check_norm(
    cpu: &CpuBackend,
    out: &[f32],
    (residual, weights): (&[f32], &[f32]),
    element: Element,
    what: &str,
) {
    let (width, len) = (weights.len(), residual.len());
    let upload = |values: &[f32]| {
        let mut buffer = cpu.alloc(values.len()).expect("memory");
        cpu.write(values, &mut buffer).expect("room");
        buffer
    };
    let mut expected = upload(out);
    cpu.rms_norm(
        &upload(residual),
        &upload(weights),
        EPS,
        (len / width, width),
        &mut expected,
    )
    .expect("a norm");
    let unit = match element {
        Element::F32 => 2.0_f64.powi(-24),
        Element::F16 => 2.0_f64.powi(-11),
        Element::Bf16 => 2.0_f64.powi(-8),
    };
    let sums = (8.0 + (width as f64).sqrt()) * 2.0_f64.powi(-23);
    for (i, (&got, &expected)) in out.iter().zip(expected.iter()).enumerate() {
        let size = f64::from(expected.abs());
        let bound = unit * size + 2.0_f64.powi(-25) + sums * (1.0 + size);
        let error = (f64::from(got) - f64::from(expected)).abs();
        assert!(error <= bound, "{what}, element {i}: {got} is not {expected}");
    }
}

/// What is played back counts turns as what is launched does; both kinds of sums in one step, of several sizes.
#[test]
fn every_rank_has_the_indices_of_the_first() {
    let _alone = alone();
    for link in LINKS {
        let ranks = gpus(Element::F32, link);
        // Odd ones, one behind another, and more than go at once.
        for len in [1, 2, 3, 64, 255, 256, 1, 4097, 9001, 64] {
            let shared = on_each(&ranks, |rank, backend| {
                let own: Vec<u32> = (0..len + 1).map(|i| i * 7 + 1_000_000 * rank as u32).collect();
                let mut indices = backend.alloc_indices(own.len()).expect("memory");
                backend.write_indices(&own, &mut indices).expect("room");
                backend
                    .share_indices(&mut indices, len as usize)
                    .expect("the first's");
                let mut values = vec![0; own.len()];
                backend
                    .read_indices_into(&indices, &mut values)
                    .expect("a result");
                assert_eq!(values.pop(), own.last().copied(), "what is behind them stays");
                values
            });
            let expected: Vec<u32> = (0..len).map(|i| i * 7).collect();
            assert!(
                shared.iter().all(|values| *values == expected),
                "{link:?} x {len}"
            );
        }
    }
}

#[test]
fn recorded_steps_count_their_turns() {
    let _alone = alone();
    LINKS.into_iter().for_each(count_turns);
}

fn count_turns(link: Link) {
    let ranks = gpus(Element::Bf16, link);
    let (width, runs) = (512, 300);
    let results = on_each(&ranks, |rank, backend| {
        let weight = exact_buffer(backend, &vec![1.0; width]);
        let mut recorded = [Recorded::default(), Recorded::default()];
        let len = 40 * width;
        // A sum may take the place of what was summed.
        let own = buffer(backend, &vec![1.0 + rank as f32; len]);
        let all_rows: Vec<u32> = (0..40).collect();
        let mut ids = backend.alloc_indices(40).expect("memory");
        backend.write_indices(&all_rows, &mut ids).expect("room");
        let (mut x, mut residual) = (
            buffer(backend, &vec![f32::NAN; len]),
            exact_buffer(backend, &vec![0.0; len]),
        );
        let (mut bulk, mut out) = (
            buffer(backend, &vec![0.0; 100_000]),
            buffer(backend, &vec![0.0; len]),
        );
        for run in 0..runs {
            let rows = [1, 40][run % 2];
            let shape = StepShape {
                num_seqs: rows,
                max_blocks: 1,
            };
            let mut launch = || {
                backend.gather_rows(&own, &ids, rows, width, &mut x)?;
                backend.all_reduce_add_norm(&mut x, &mut residual, &weight, EPS, (rows, width), &mut out)?;
                backend.all_reduce(&mut bulk, 100_000)?;
                backend.gather_rows(&own, &ids, rows, width, &mut x)?;
                backend.all_reduce_add_norm(&mut x, &mut residual, &weight, EPS, (rows, width), &mut out)
            };
            backend
                .run_recorded(&mut recorded[run % 2], shape, &mut launch)
                .expect("a step");
        }
        read(backend, &residual, len)
    });
    // Row 0 in every run, the others in every second; twice each, a sum of three.
    let expected: Vec<f32> = (0..40 * width)
        .map(|i| {
            if i < width {
                6.0 * runs as f32
            } else {
                3.0 * runs as f32
            }
        })
        .collect();
    assert!(results.iter().all(|result| *result == expected));
}

#[test]
fn a_rank_that_leaves_ends_the_waiting_of_others() {
    let _alone = alone();
    LINKS.into_iter().for_each(leave_alone);
}

fn leave_alone(link: Link) {
    let ranks = gpus(Element::Bf16, link);
    let start = Instant::now();
    let failures = on_each(&ranks, |rank, backend| {
        let mut x = buffer(backend, &[1.0; 64]);
        match rank {
            0 => backend.all_reduce(&mut x, 64).expect("a launch"),
            _ => backend.leave(),
        }
        backend.synchronize().expect_err("a rank has left").to_string()
    });
    assert_eq!(failures, ["cuda: rank 1 of 2 has failed, or waited in vain"; 2]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn more_gpus_than_there_are_are_refused_with_both_numbers() {
    let _alone = alone();
    let present = (1..)
        .take_while(|&count| ferrum_kernels::cuda::probe_ranks(count).is_ok())
        .count();
    let refusal = ferrum_kernels::cuda::probe_ranks(present + 1)
        .expect_err("too many")
        .to_string();
    assert!(
        refusal.contains(&format!("{} GPUs were asked for", present + 1)),
        "{refusal}"
    );
}
