//! Element-wise operations at the shapes of real models, against what the machine can do, measured in the same
//! run.
//!
//! `cargo bench -p ferrum-kernels --bench activation [-- FILTER]`, FILTER a part of a case's name.
#![allow(unsafe_code, reason = "in `machine` and the clock")]

mod machine;
#[allow(dead_code)] // shared with the other benchmarks
mod measure;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use ferrum_kernels::ops::{ActivationOps, Gelu};
use measure::{Work, buffer, indices, machines, report, wanted};
use support::Random;

fn main() {
    let machines = machines();
    for machine in &machines {
        for rows in [1, 512] {
            case(machine, "smollm2", (rows, 1536));
        }
    }
}

fn case(
    machine: &(machine::Machine, ferrum_kernels::cpu::CpuBackend),
    model: &str,
    (rows, width): (usize, usize),
) {
    let backend = &machine.1;
    let len = rows * width;
    let mut random = Random(1);
    let x = buffer(backend, &random.activations(2 * len));
    let mut y = buffer(backend, &vec![0.0; len]);
    let picks: Vec<u32> = (0..rows).map(|_| random.below(rows) as u32).collect();
    let picks = indices(backend, &picks);
    let mut line = |op: &str, (flops, touched): (usize, usize), call: &mut dyn FnMut(&mut _)| {
        let name = format!("{model} {op} {rows}");
        if wanted(&name) {
            let work = Work {
                name: &name,
                flops: (flops * len) as f64,
                bytes: (4 * touched * len) as f64,
            };
            report(machine, &work, |_| call(&mut y));
        }
    };
    line("add", (1, 3), &mut |y| backend.add(&x, y, len).expect("it fits"));
    line("silu_mul", (20, 3), &mut |y| {
        backend.silu_mul(&x, rows, width, y).expect("it fits");
    });
    for (name, kind, flops) in [
        ("gelu erf", Gelu::Erf, 45),
        ("gelu quick", Gelu::Quick, 20),
        ("gelu tanh", Gelu::Tanh, 24),
    ] {
        line(name, (flops, 2), &mut |y| {
            // In place: of values that stay ordinary.
            y[..len].copy_from_slice(&x[..len]);
            backend.gelu(y, kind, len).expect("it fits");
        });
    }
    line("gather_rows", (0, 2), &mut |y| {
        backend
            .gather_rows(&x, &picks, rows, width, y)
            .expect("rows of x");
    });
}
