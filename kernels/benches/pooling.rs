//! Pooling at the width of MiniLM, against what the machine can do, measured in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench pooling [-- FILTER]`, FILTER a part of a case's name.
#![allow(unsafe_code, reason = "in `machine` and the clock")]

mod machine;
#[allow(dead_code)] // shared with the other benchmarks
mod measure;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use ferrum_kernels::ops::PoolingOps;
use measure::{Work, buffer, indices, machines, report, wanted};
use support::Random;

const WIDTH: usize = 384;

fn main() {
    for machine in &machines() {
        for (num_seqs, len) in [(1, 16), (32, 128), (4, 512)] {
            let backend = &machine.1;
            let rows = num_seqs * len;
            let x = buffer(backend, &Random(1).activations(rows * WIDTH));
            let ends: Vec<u32> = (0..=num_seqs).map(|seq| (seq * len) as u32).collect();
            let cu_seqlens = indices(backend, &ends);
            let mut out = buffer(backend, &vec![0.0; num_seqs * WIDTH]);
            let name = format!("minilm mean_pool {num_seqs} x {len}");
            if wanted(&name) {
                let work = Work {
                    name: &name,
                    flops: (rows * WIDTH) as f64,
                    bytes: (4 * rows * WIDTH) as f64,
                };
                report(machine, &work, |_| {
                    backend
                        .mean_pool(&x, &cu_seqlens, num_seqs, WIDTH, &mut out)
                        .expect("it fits");
                });
            }
            let name = format!("minilm l2_normalize {num_seqs}");
            if wanted(&name) {
                let work = Work {
                    name: &name,
                    flops: (3 * num_seqs * WIDTH) as f64,
                    bytes: (8 * num_seqs * WIDTH) as f64,
                };
                report(machine, &work, |_| {
                    backend.l2_normalize(&mut out, num_seqs, WIDTH).expect("it fits");
                });
            }
        }
    }
}
