//! Linear layers at the shapes of real models, against what the machine can do, measured in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench linear [-- FILTER]`, FILTER a part of a case's name, such as
//! `smollm2`, `gate_up` or `Q4_1`. FERRUM_BENCH_ISA = portable, avx2 or avx512 chooses lesser the kernels.
//!
//! Each figure is the best of several repetitions. Weights are cycled through copies that together exceed the
//! second-level cache many times, as the layers of a model do.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]
#![allow(unsafe_code)]

mod machine;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use ferrum_kernels::{
    Backend,
    WeightFormat::{self, BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0},
    cpu::{CpuBackend, CpuWeight, Isa, detect},
    ops::LinearOps,
};
use machine::{Machine, clock};
use support::Random;

/// Model and layer, n, k, formats.
const CASES: [(&str, usize, usize, &[WeightFormat]); 12] = [
    ("smollm2 qkv", 960, 576, &[Q4_1, Q4_0, Q8_0, F16]),
    ("smollm2 o", 576, 576, &[Q4_1]),
    (
        "smollm2 gate_up",
        3072,
        576,
        &[Q4_1, Q4_0, Q5_0, Q5_1, Q8_0, F16, BF16, F32],
    ),
    ("smollm2 down", 576, 1536, &[Q4_1, Q4K, Q5K, Q6K]),
    ("smollm2 head", 49152, 576, &[Q8_0]),
    ("qwen2.5-0.5b qkv", 1152, 896, &[Q5_0, Q8_0]),
    ("qwen2.5-0.5b gate_up", 9728, 896, &[Q5_0]),
    ("qwen2.5-0.5b down", 896, 4864, &[Q4K, Q6K]),
    ("qwen2.5-0.5b head", 151_936, 896, &[Q8_0]),
    ("minilm qkv", 1152, 384, &[F32]),
    ("minilm up", 1536, 384, &[F32]),
    ("minilm down", 384, 1536, &[F32]),
];

const ROWS: [usize; 3] = [1, 8, 512];

/// Weights that a case cycles through.
const CYCLE_BYTES: usize = 96 << 20;

const TIME_A_FIGURE: Duration = Duration::from_millis(250);

fn main() {
    // `cargo bench` passes `--bench`.
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let isa = match std::env::var("FERRUM_BENCH_ISA").as_deref() {
        Ok("portable") => Isa::Portable,
        Ok("avx2") => Isa::Avx2,
        Ok("avx512") => Isa::Avx512,
        _ => detect(),
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    println!("kernels: {isa}");
    let machines: Vec<Machine> = if all > 1 { vec![1, all] } else { vec![1] }
        .into_iter()
        .map(Machine::measure)
        .collect();
    for machine in &machines {
        println!("{machine}");
    }
    println!();
    println!(
        "{:<22} {:<5} {:>4} {:>7} {:>12} {:>8} {:>9} {:>10}",
        "layer", "", "rows", "threads", "time", "GB/s", "GOP/s", "of peak"
    );
    for (name, n, k, formats) in CASES {
        for &format in formats {
            if filter
                .as_ref()
                .is_some_and(|filter| !format!("{name} {format}").contains(filter))
            {
                continue;
            }
            for machine in &machines {
                Case { name, n, k, format }.run(machine, isa);
            }
        }
    }
}

struct Case {
    name: &'static str,
    n: usize,
    k: usize,
    format: WeightFormat,
}

impl Case {
    fn run(&self, machine: &Machine, isa: Isa) {
        let Self { name, n, k, format } = *self;
        let backend = CpuBackend::with_isa(machine.threads, isa);
        let mut random = Random(1);
        let tensor = random.matrix(format, n, k);
        let bytes = tensor.bytes.len();
        let weights: Vec<CpuWeight> = (0..(CYCLE_BYTES / bytes).max(1))
            .map(|_| {
                let mut copy = tensor.clone();
                copy.bytes = copy.bytes.to_vec().into();
                backend.prepare_weight(&[copy]).expect("a weight")
            })
            .collect();
        if name.ends_with("head") {
            self.embed(&backend, &weights[0], machine);
        }
        for rows in ROWS {
            let seconds = time(&backend, &weights, rows, &mut random);
            let gigabytes = bytes as f64 / seconds / 1e9;
            let gigaops = 2.0 * (rows * n * k) as f64 / seconds / 1e9;
            // What bounds a row alone is reading the weights; many rows, arithmetic.
            let of_peak = if rows == 1 {
                format!("{:.0} % read", 100.0 * gigabytes / machine.read_gbps)
            } else if format.block_len() > 1 {
                format!("{:.0} % int8", 100.0 * gigaops / machine.int8_gops)
            } else {
                format!("{:.0} % f32", 100.0 * gigaops / machine.f32_gflops)
            };
            let micros = format!("{:.1} us", seconds * 1e6);
            let threads = machine.threads;
            let format = format.to_string();
            println!(
                "{name:<22} {format:<5} {rows:>4} {threads:>7} {micros:>12} {gigabytes:>8.2} {gigaops:>9.1} {of_peak:>10}"
            );
        }
    }
}

impl Case {
    /// 512 rows of the table, as a prefill takes them.
    fn embed(&self, backend: &CpuBackend, table: &CpuWeight, machine: &Machine) {
        let mut random = Random(2);
        let rows: Vec<u32> = (0..512).map(|_| random.below(self.n) as u32).collect();
        let mut ids = backend.alloc_indices(512).expect("memory");
        ids.copy_from_slice(&rows);
        let mut out = backend.alloc(512 * self.k).expect("memory");
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = clock(backend);
            backend.embed(table, &ids, 512, &mut out).expect("rows");
            best = best.min(clock(backend) - start);
        }
        let micros = format!("{:.1} us", best * 1e6);
        let name = self.name.replace("head", "embed");
        let (format, threads) = (self.format.to_string(), machine.threads);
        println!("{name:<22} {format:<5} {:>4} {threads:>7} {micros:>12}", 512);
    }
}

/// Seconds of one product: the best of the cycles through all weights.
fn time(backend: &CpuBackend, weights: &[CpuWeight], rows: usize, random: &mut Random) -> f64 {
    let (n, k) = (weights[0].n(), weights[0].k());
    let mut x = backend.alloc(rows * k).expect("memory");
    x.copy_from_slice(&random.activations(rows * k));
    let mut out = backend.alloc(rows * n).expect("memory");
    let start = Instant::now();
    let mut best = f64::INFINITY;
    // A few products a sample, so that the clock does not show and other programs can be dodged.
    let a_sample = if rows > 64 { 1 } else { weights.len().min(16) };
    let mut samples = weights.chunks(a_sample).cycle();
    let mut taken = 0;
    while start.elapsed() < TIME_A_FIGURE || taken < 3 {
        let sample = samples.next().expect("cycled");
        let start = clock(backend);
        for weight in sample {
            backend
                .linear(&x, weight, None, rows, &mut out)
                .expect("a product");
        }
        best = best.min((clock(backend) - start) / sample.len() as f64);
        taken += 1;
    }
    best
}
