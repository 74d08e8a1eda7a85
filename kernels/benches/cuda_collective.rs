//! Sums over GPUs in a recorded step: `cuda_collective [RANKS] [WIDTH] [nccl]`.
#![allow(clippy::print_stdout)]

use std::{thread, time::Instant};

use ferrum_kernels::{
    Backend,
    backend::StepShape,
    cuda::{CudaBackend, Element, Link, Recorded},
    ops::{CollectiveOps, NormOps},
};

const CALLS: usize = 64;
const REPEATS: usize = 20;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (count, width): (usize, usize) = (number(2), number(2560));
    let link = match arguments.next().as_deref() {
        None => Link::Best,
        Some("nccl") => Link::Nccl,
        Some(other) => panic!("{other}: only nccl can be asked for"),
    };
    let ranks = CudaBackend::ranks(count, Element::Bf16, link).expect("GPUs");
    println!(
        "{count} x {} through {}, rows x {width} bf16, microseconds a call",
        ranks[0].facts().name,
        ranks[0].link_name().unwrap_or("nothing")
    );
    for rows in [1, 4, 16, 32, 64, 128, 256, 512, 2048] {
        let times = thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .iter()
                .map(|backend| scope.spawn(move || measure(backend, rows, width)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("a rank"));
            joined.collect::<Vec<_>>()[0]
        });
        println!(
            "{rows:5} rows {:8.1} KiB: sum, residual and norm {:7.2}, sum alone in bulk {:7.2}, residual and norm alone {:6.2}",
            (rows * width * 2) as f64 / 1024.0,
            times[0],
            times[1],
            times[2]
        );
    }
}

/// Of the sum with residual and norm, the sum in bulk, and the norm alone.
fn measure(backend: &CudaBackend, rows: usize, width: usize) -> [f64; 3] {
    let alloc = || backend.alloc(rows * width).expect("memory");
    let (mut x, mut out) = (alloc(), alloc());
    let mut residual = backend.alloc_f32(rows * width).expect("memory");
    let weight = backend.alloc_f32(width).expect("memory");
    let shape = (rows, width);
    [0, 1, 2].map(|kind| {
        median_us(backend, &mut || match kind {
            0 => backend.all_reduce_add_norm(&mut x, &mut residual, &weight, 1e-6, shape, &mut out),
            1 => backend.all_reduce(&mut x, rows * width),
            _ => backend.add_rms_norm(&x, &mut residual, &weight, 1e-6, shape, &mut out),
        })
    })
}

/// Of five runs.
fn median_us(
    backend: &CudaBackend,
    call: &mut dyn FnMut() -> Result<(), ferrum_kernels::BackendError>,
) -> f64 {
    let mut recorded = Recorded::default();
    let shape = StepShape {
        num_seqs: 1,
        max_blocks: 1,
    };
    let mut step = || {
        let mut launch = || (0..CALLS).try_for_each(|_| call());
        backend
            .run_recorded(&mut recorded, shape, &mut launch)
            .expect("a step");
    };
    (0..3).for_each(|_| step());
    let mut runs = [0; 5].map(|_| {
        backend.synchronize().expect("a step");
        let start = Instant::now();
        (0..REPEATS).for_each(|_| step());
        backend.synchronize().expect("a step");
        start.elapsed().as_secs_f64() * 1e6 / (CALLS * REPEATS) as f64
    });
    runs.sort_by(f64::total_cmp);
    runs[2]
}
