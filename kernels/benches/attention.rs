//! Attention at the shapes of real models, against what the machine can do, measured in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench attention [-- FILTER]`, FILTER a part of a case's name, such as
//! `decode` or `smollm2`. FERRUM_BENCH_ISA = portable, avx2 or avx512 chooses the kernels.
//!
//! Operations are those of the two products, for the keys that each query sees; bytes are the keys and values
//! (of prefill: once; rotary positions and cache writes: what they read and write).
#![allow(unsafe_code, reason = "in `machine` and the clock")]

mod machine;
#[allow(dead_code)] // shared with the other benchmarks
mod measure;
#[allow(dead_code)] // what only tests use
#[path = "../tests/support/mod.rs"]
mod support;

use ferrum_kernels::{
    Backend,
    backend::{KvDtype, KvLayout},
    cpu::{CpuBackend, CpuKvCache},
    ops::{AttentionMask, AttentionOps, HeadLayout, PagedBatch},
};
use machine::Machine;
use measure::{Work, buffer, indices, machines, report, wanted};
use support::Random;

const BLOCK: usize = 16;

struct Model {
    name: &'static str,
    layers: usize,
    heads: HeadLayout,
}

const fn model(name: &'static str, layers: usize, shape: (usize, usize, usize)) -> Model {
    let (num_heads, num_kv_heads, head_dim) = shape;
    Model {
        name,
        layers,
        heads: HeadLayout {
            num_heads,
            num_kv_heads,
            head_dim,
        },
    }
}

const MODELS: [Model; 3] = [
    model("smollm2", 30, (9, 3, 64)),
    model("qwen2.5-0.5b", 24, (14, 2, 64)),
    model("qwen3-0.6b", 28, (16, 8, 128)),
];

/// Name, sequences, queries of each, context of each.
const STEPS: [(&str, usize, usize, usize); 7] = [
    ("prefill 512", 1, 512, 512),
    ("prefill 512 after 1536", 1, 512, 2048),
    ("prefill 8 x 64", 8, 64, 64),
    ("decode at 512", 1, 1, 512),
    ("decode at 4096", 1, 1, 4096),
    ("decode 8 x 512", 8, 1, 512),
    ("decode 8 x 4096", 8, 1, 4096),
];

fn main() {
    let machines = machines();
    for model in &MODELS {
        for step in STEPS {
            for machine in &machines {
                paged(machine, model, step);
            }
        }
        for machine in &machines {
            prepare(machine, model);
        }
    }
    let minilm = model("minilm", 6, (12, 12, 32));
    for (num_seqs, len) in [(32, 16), (32, 128), (4, 512)] {
        for machine in &machines {
            varlen(machine, &minilm, (num_seqs, len));
        }
    }
}

fn random(len: usize) -> Vec<f32> {
    let mut random = Random(len as u64);
    (0..len).map(|_| random.unit()).collect()
}

fn cache(backend: &CpuBackend, model: &Model, num_blocks: usize) -> CpuKvCache {
    backend
        .alloc_kv_cache(&KvLayout {
            num_layers: model.layers,
            num_kv_heads: model.heads.num_kv_heads,
            head_dim: model.heads.head_dim,
            block_size: BLOCK,
            num_blocks,
            dtype: KvDtype::F16,
        })
        .expect("memory for the cache")
}

/// A step of equal sequences; the layers' caches are read in turn, as in a model.
fn paged(machine: &(Machine, CpuBackend), model: &Model, step: (&str, usize, usize, usize)) {
    let (step, num_seqs, count, context) = step;
    let name = format!("{} {step}", model.name);
    if !wanted(&name) {
        return;
    }
    let (backend, heads) = (&machine.1, model.heads);
    let blocks = context.div_ceil(BLOCK);
    let mut cache = cache(backend, model, num_seqs * blocks);
    let mut tables: Vec<u32> = (0..(num_seqs * blocks) as u32).collect();
    let mut order = Random(1);
    for at in (1..tables.len()).rev() {
        tables.swap(at, order.below(at + 1));
    }
    let all = num_seqs * context;
    let qkv = buffer(backend, &random(all * heads.qkv_width()));
    let slots: Vec<u32> = (0..all as u32).collect();
    for layer in 0..model.layers {
        backend
            .write_kv(&qkv, heads, &mut cache, layer, &indices(backend, &slots), all)
            .expect("slots of the cache");
    }
    let rows = num_seqs * count;
    let ends: Vec<u32> = (0..=num_seqs).map(|seq| (seq * count) as u32).collect();
    let batch = PagedBatch {
        cu_seqlens_q: &indices(backend, &ends),
        context_lens: &indices(backend, &vec![context as u32; num_seqs]),
        block_tables: &indices(backend, &tables),
        max_blocks: blocks,
        num_seqs,
        rows,
    };
    let mut out = backend.alloc(rows * heads.q_width()).expect("memory");
    let seen: usize = (context - count + 1..=context).sum();
    let work = Work {
        name: &name,
        flops: (4 * num_seqs * seen * heads.q_width()) as f64,
        bytes: (2 * 2 * num_seqs * context * heads.kv_width()) as f64,
    };
    report(machine, &work, |call| {
        backend
            .paged_attention(
                &qkv,
                heads,
                &cache,
                call % model.layers,
                &batch,
                0.125,
                None,
                &mut out,
            )
            .expect("a well-formed step");
    });
}

/// Rotary positions and cache writes of a prefill of 512.
fn prepare(machine: &(Machine, CpuBackend), model: &Model) {
    let (backend, heads, rows) = (&machine.1, model.heads, 512);
    let mut qkv = buffer(backend, &random(rows * heads.qkv_width()));
    let positions = indices(backend, &(0..rows as u32).collect::<Vec<_>>());
    let rotated = rows * (heads.q_width() + heads.kv_width());
    let name = format!("{} rope 512", model.name);
    if wanted(&name) {
        let table = backend
            .prepare_rope(&random(heads.head_dim / 2), rows)
            .expect("memory");
        let work = Work {
            name: &name,
            flops: 3.0 * rotated as f64,
            bytes: 8.0 * rotated as f64,
        };
        report(machine, &work, |_| {
            backend
                .rope(&mut qkv, heads, &positions, &table, rows)
                .expect("positions of the table");
        });
    }
    let name = format!("{} write_kv 512", model.name);
    if wanted(&name) {
        let mut cache = cache(backend, model, rows / BLOCK);
        let work = Work {
            name: &name,
            flops: 0.0,
            bytes: (rows * 2 * heads.kv_width() * 6) as f64,
        };
        report(machine, &work, |call| {
            backend
                .write_kv(&qkv, heads, &mut cache, call % model.layers, &positions, rows)
                .expect("slots of the cache");
        });
    }
}

fn varlen(machine: &(Machine, CpuBackend), model: &Model, (num_seqs, len): (usize, usize)) {
    let name = format!("{} varlen {num_seqs} x {len}", model.name);
    if !wanted(&name) {
        return;
    }
    let (backend, heads, rows) = (&machine.1, model.heads, num_seqs * len);
    let qkv = buffer(backend, &random(rows * heads.qkv_width()));
    let ends: Vec<u32> = (0..=num_seqs).map(|seq| (seq * len) as u32).collect();
    let cu_seqlens = indices(backend, &ends);
    let mut out = backend.alloc(rows * heads.q_width()).expect("memory");
    let work = Work {
        name: &name,
        flops: (4 * num_seqs * len * len * heads.q_width()) as f64,
        bytes: (4 * rows * 2 * heads.kv_width()) as f64,
    };
    report(machine, &work, |_| {
        let mask = AttentionMask::Bidirectional;
        backend
            .varlen_attention(&qkv, heads, &cu_seqlens, num_seqs, mask, 0.177, &mut out)
            .expect("a well-formed batch");
    });
}
