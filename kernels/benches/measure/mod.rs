//! What the benchmarks of the small operations share.
#![allow(clippy::print_stdout, reason = "tables are what benchmarks are for")]
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use ferrum_kernels::{
    Backend,
    cpu::{CpuBackend, CpuBuffer, CpuIndices, Isa, detect},
};

use crate::machine::{Machine, clock};

const TIME_A_FIGURE: Duration = Duration::from_millis(250);

/// One line of the table: what one call does.
pub(crate) struct Work<'a> {
    pub(crate) name: &'a str,
    /// Floating-point operations.
    pub(crate) flops: f64,
    /// Bytes read and written, each once.
    pub(crate) bytes: f64,
}

/// Machines with one thread and with all, and the backends to hold against them.
///
/// FERRUM_BENCH_ISA = portable, avx2 or avx512 chooses lesser the kernels.
pub(crate) fn machines() -> Vec<(Machine, CpuBackend)> {
    let isa = match std::env::var("FERRUM_BENCH_ISA").as_deref() {
        Ok("portable") => Isa::Portable,
        Ok("avx2") => Isa::Avx2,
        Ok("avx512") => Isa::Avx512,
        _ => detect(),
    };
    println!("kernels: {isa}");
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let machines: Vec<_> = if all > 1 { vec![1, all] } else { vec![1] }
        .into_iter()
        .map(|threads| (Machine::measure(threads), CpuBackend::with_isa(threads, isa)))
        .collect();
    for (machine, _) in &machines {
        println!("{machine}");
    }
    println!(
        "\n{:<40} {:>7} {:>12} {:>9} {:>7} {:>8} {:>7}",
        "", "threads", "time", "GFLOP/s", "of f32", "GB/s", "of read"
    );
    machines
}

/// Whether the command line asks for this case: it names a part of it, or none at all.
pub(crate) fn wanted(name: &str) -> bool {
    // `cargo bench` passes `--bench`.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// Times `call`, which is given the count of the calls before it, and prints a line.
pub(crate) fn report(
    (machine, backend): &(Machine, CpuBackend),
    work: &Work<'_>,
    mut call: impl FnMut(usize),
) {
    let seconds = best_seconds(backend, &mut call);
    let (gflops, gbps) = (work.flops / seconds / 1e9, work.bytes / seconds / 1e9);
    println!(
        "{:<40} {:>7} {:>9.1} us {:>9.1} {:>5.0} % {:>8.1} {:>5.0} %",
        work.name,
        machine.threads,
        seconds * 1e6,
        gflops,
        100.0 * gflops / machine.f32_gflops,
        gbps,
        100.0 * gbps / machine.read_gbps
    );
}

/// Seconds of a call, the best of several samples of a few calls.
fn best_seconds(backend: &CpuBackend, call: &mut impl FnMut(usize)) -> f64 {
    let start = clock(backend);
    call(0);
    let first = clock(backend) - start;
    let calls = (2e-3 / first.max(1e-7)).clamp(1.0, 64.0) as usize;
    let (mut best, mut done) = (f64::INFINITY, 1);
    let begin = Instant::now();
    while begin.elapsed() < TIME_A_FIGURE {
        let start = clock(backend);
        for _ in 0..calls {
            call(done);
            done += 1;
        }
        best = best.min((clock(backend) - start) / calls as f64);
    }
    best
}

pub(crate) fn buffer(backend: &CpuBackend, values: &[f32]) -> CpuBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("it fits");
    buffer
}

pub(crate) fn indices(backend: &CpuBackend, values: &[u32]) -> CpuIndices {
    let mut buffer = backend.alloc_indices(values.len()).expect("memory");
    backend.write_indices(values, &mut buffer).expect("it fits");
    buffer
}
