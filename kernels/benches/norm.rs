//! Norms at the widths of real models, against what the machine can do, measured in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench norm [-- FILTER]`, FILTER a part of a case's name.
#![allow(unsafe_code, reason = "in `machine` and the clock")]

mod machine;
#[allow(dead_code)] // shared with the other benchmarks
mod measure;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use ferrum_kernels::ops::{ActivationOps, HeadLayout, NormOps};
use measure::{Work, buffer, machines, report, wanted};
use support::Random;

fn main() {
    let machines = machines();
    for (model, width) in [("smollm2", 576), ("qwen3-0.6b", 1024)] {
        for rows in [1, 8, 512] {
            for machine in &machines {
                norms(machine, model, (rows, width));
            }
        }
    }
}

fn norms(
    machine: &(machine::Machine, ferrum_kernels::cpu::CpuBackend),
    model: &str,
    (rows, width): (usize, usize),
) {
    let backend = &machine.1;
    let len = rows * width;
    let mut random = Random(1);
    let x = buffer(backend, &random.activations(len));
    let [weight, bias] = [0; 2].map(|_| buffer(backend, &random.activations(width)));
    // Sums that stay finite however often they are taken.
    let mut residual = buffer(backend, &vec![0.0; len]);
    let mut out = buffer(backend, &vec![0.0; len]);
    let shape = (rows, width);
    let mut case = |op: &str, touched: usize, call: &mut dyn FnMut(&mut _, &mut _)| {
        let name = format!("{model} {op} {rows}");
        if wanted(&name) {
            let work = Work {
                name: &name,
                flops: 4.0 * len as f64,
                bytes: (4 * touched * len) as f64,
            };
            report(machine, &work, |_| call(&mut residual, &mut out));
        }
    };
    case("rms_norm", 2, &mut |_, out| {
        backend.rms_norm(&x, &weight, 1e-5, shape, out).expect("it fits");
    });
    case("add_rms_norm", 4, &mut |residual, out| {
        backend
            .add_rms_norm(&x, residual, &weight, 1e-5, shape, out)
            .expect("it fits");
    });
    case("add, then rms_norm", 4, &mut |residual, out| {
        backend.add(&x, residual, len).expect("it fits");
        backend
            .rms_norm(residual, &weight, 1e-5, shape, out)
            .expect("it fits");
    });
    case("layer_norm", 2, &mut |_, out| {
        backend
            .layer_norm(&x, (&weight, &bias), 1e-5, shape, out)
            .expect("it fits");
    });
    let heads = HeadLayout {
        num_heads: width / 64 - 2,
        num_kv_heads: 1,
        head_dim: 64,
    };
    case("qk_norm", 2, &mut |qkv, _| {
        backend
            .qk_norm(qkv, heads, (&weight, &bias), 1e-6, rows)
            .expect("it fits");
    });
}
