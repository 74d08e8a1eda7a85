//! Sampling over the vocabularies of real models, against what the machine can do, measured in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench sampling [-- FILTER]`, FILTER a part of a case's name. Bytes are the
//! logits, read once.
#![allow(unsafe_code, reason = "in `machine` and the clock")]

mod machine;
#[allow(dead_code)] // shared with the other benchmarks
mod measure;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use ferrum_kernels::{
    Backend,
    cpu::CpuBackend,
    ops::{SampleRow, SamplingOps},
};
use machine::Machine;
use measure::{Work, buffer, machines, report, wanted};
use support::Random;

fn main() {
    let machines = machines();
    for (model, vocab) in [("smollm2", 49_152), ("qwen3", 151_936)] {
        for rows in [1, 8] {
            for machine in &machines {
                sample(machine, model, (rows, vocab));
            }
        }
        for machine in &machines {
            logprobs(machine, model, vocab);
        }
    }
}

/// A few tokens far above a broad rest.
fn logits(len: usize) -> Vec<f32> {
    let mut random = Random(1);
    (0..len)
        .map(|_| {
            let x = 3.0 * (random.unit() + random.unit());
            if random.below(2000) == 0 { x + 10.0 } else { x }
        })
        .collect()
}

fn sample(machine: &(Machine, CpuBackend), model: &str, (rows, vocab): (usize, usize)) {
    let backend = &machine.1;
    let row_logits = buffer(backend, &logits(rows * vocab));
    let mut out = backend.alloc_indices(rows).expect("memory");
    let prompt: Vec<u32> = (0..2000).map(|i| i * 17 % vocab as u32).collect();
    let plain = SampleRow {
        temperature: 0.8,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: &[],
        allowed: None,
        prompt: &prompt,
        generated: &prompt[..500],
        seed: 1,
        position: 0,
    };
    let with = |change: &dyn Fn(&mut SampleRow<'_>)| {
        let mut row = plain.clone();
        change(&mut row);
        row
    };
    for (how, row) in [
        ("greedy", with(&|row| row.temperature = 0.0)),
        ("plain", plain.clone()),
        ("top-k 50", with(&|row| row.top_k = 50)),
        ("top-p 0.95", with(&|row| row.top_p = 0.95)),
        (
            "hot top-p 0.95",
            with(&|row| (row.temperature, row.top_p) = (50.0, 0.95)),
        ),
        ("min-p 0.05", with(&|row| row.min_p = 0.05)),
        (
            "top-k, top-p, penalties",
            with(&|row| {
                (
                    row.top_k,
                    row.top_p,
                    row.repetition_penalty,
                    row.frequency_penalty,
                ) = (40, 0.9, 1.1, 0.2);
            }),
        ),
    ] {
        let name = format!("{model} {how} x {rows}");
        if !wanted(&name) {
            continue;
        }
        let work = Work {
            name: &name,
            flops: 0.0,
            bytes: (4 * rows * vocab) as f64,
        };
        report(machine, &work, |call| {
            let rows: Vec<SampleRow<'_>> = (0..rows)
                .map(|_| SampleRow {
                    position: call as u64,
                    ..row.clone()
                })
                .collect();
            backend
                .sample(&row_logits, vocab, &rows, &mut out)
                .expect("rows that make sense");
        });
    }
}

fn logprobs(machine: &(Machine, CpuBackend), model: &str, vocab: usize) {
    let name = format!("{model} logprobs, top 5");
    if !wanted(&name) {
        return;
    }
    let backend = &machine.1;
    let logits = buffer(backend, &logits(vocab));
    let work = Work {
        name: &name,
        flops: 0.0,
        bytes: (4 * vocab) as f64,
    };
    report(machine, &work, |_| {
        backend.logprobs(&logits, vocab, 0, 7, 5).expect("a token");
    });
}
