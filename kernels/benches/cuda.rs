//! Kernels of the CUDA backend at the shapes of Qwen3-4B, against what the same GPU does in the same run.
//!
//! `cargo bench -p ferrum-kernels --features cuda --bench cuda [-- FILTER]`, FILTER a part of a line. Operands take turns,
//! so that they do not come from the cache; calls are recorded and overlap as in a step. A line's bytes are those that it
//! has to move, each once.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use ferrum_kernels::{
    Backend, BackendError, HostTensor, WeightFormat,
    backend::{KvDtype, KvLayout, StepShape},
    cuda::{CudaBackend, CudaBuffer, CudaIndices, CudaKvCache, CudaWeight, Element, Recorded},
    ops::{
        ActivationOps, AttentionOps, CacheSlots, HeadLayout, LinearOps, NormOps, PagedBatch, PagedView,
        QkNormWeights, RotaryStep, SampleRow, SamplingOps,
    },
};

/// Bytes of operands that take turns: several times the cache.
const COLD_BYTES: usize = 400 << 20;
const CALLS: usize = 40;
const BLOCK: usize = 16;
const HEADS: HeadLayout = HeadLayout {
    num_heads: 32,
    num_kv_heads: 8,
    head_dim: 128,
};

fn main() {
    let mut bench = Bench::new();
    for (name, n, k) in [
        ("q, k, v", 6144, 2560),
        ("output", 2560, 4096),
        ("gate and up", 19456, 2560),
        ("down", 2560, 9728),
        ("vocabulary", 151_936, 2560),
    ] {
        let weights = bench.weights(n, k);
        for rows in [1, 4, 16, 32, 64, 2048]
            .into_iter()
            .filter(|rows| rows * n < 1 << 27)
        {
            bench.linear(name, &weights, (rows, n, k));
        }
        if name == "gate and up" {
            for rows in [1, 4, 16, 32, 64, 512, 2048] {
                bench.gated(&weights, (rows, n / 2, k));
            }
        }
    }
    for rows in [1, 16, 64, 2048] {
        bench.rows(rows, 2560, 9728);
    }
    for (seqs, context) in [(1, 512), (1, 4096), (4, 512), (16, 1024), (32, 1024), (64, 1024)] {
        bench.attention("decode", (seqs, 1, context));
    }
    bench.attention("prefill", (1, 2048, 2048));
    for rows in [1, 64] {
        bench.sampling(rows, 151_936);
    }
}

/// What one call moves and computes.
struct Work {
    bytes: f64,
    flops: f64,
}

struct Bench {
    backend: CudaBackend,
    filter: String,
    /// Of a large addition, GB/s.
    memory_rate: f64,
    /// Of a large product, TFLOP/s.
    compute_rate: f64,
}

impl Bench {
    fn new() -> Self {
        let backend = CudaBackend::new(0, Element::Bf16).expect("a GPU");
        let mut bench = Self {
            filter: std::env::args()
                .skip(1)
                .find(|arg| arg != "--bench")
                .unwrap_or_default(),
            backend,
            memory_rate: 0.0,
            compute_rate: 0.0,
        };
        let len = 1 << 28;
        let (x, mut y) = (bench.zeros(len), bench.zeros(len));
        let seconds = bench.seconds(|backend, _| backend.add(&x, &mut y, len));
        bench.memory_rate = (6 * len) as f64 / seconds / 1e9;
        drop((x, y));
        let n = 8192;
        let (weights, x, mut out) = (bench.weights(n, n), bench.random(n * n), bench.zeros(n * n));
        let seconds =
            bench.seconds(|backend, i| backend.linear(&x, &weights[i % weights.len()], None, n, &mut out));
        bench.compute_rate = 2.0 * (n as f64).powi(3) / seconds / 1e12;
        println!(
            "{}: memory {:.0} GB/s (an addition), products {:.0} TFLOP/s (8192 cubed)",
            bench.backend.facts().name,
            bench.memory_rate,
            bench.compute_rate
        );
        bench
    }

    fn zeros(&self, len: usize) -> CudaBuffer {
        self.backend.alloc(len).expect("memory")
    }

    fn random(&self, len: usize) -> CudaBuffer {
        let mut buffer = self.zeros(len);
        let values: Vec<f32> = (0..len as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0)
            .collect();
        self.backend.write(&values, &mut buffer).expect("room");
        buffer
    }

    /// A vector of ones, as norm weights are.
    fn ones(&self, len: usize) -> CudaBuffer {
        let bytes: Vec<u8> = (0..len).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
        let tensor = HostTensor::new(WeightFormat::F32, 1, len, bytes.into());
        self.backend.prepare_vector(&[tensor]).expect("memory")
    }

    fn indices(&self, values: &[u32]) -> CudaIndices {
        let mut indices = self.backend.alloc_indices(values.len()).expect("memory");
        self.backend.write_indices(values, &mut indices).expect("room");
        indices
    }

    /// Weights (n, k), as many as do not fit into the cache.
    fn weights(&self, n: usize, k: usize) -> Vec<CudaWeight> {
        // Random bits below the exponent's highest: finite, of both signs.
        let pattern: Vec<u8> = (0..1_u32 << 20)
            .flat_map(|i| (((i.wrapping_mul(2_654_435_761) >> 13) as u16 & 0x80ff) | 0x3c00).to_le_bytes())
            .collect();
        let count = (COLD_BYTES / (2 * n * k)).clamp(1, 8) + 1;
        let prepare = |_| {
            let mut bytes = Vec::with_capacity(2 * n * k + pattern.len());
            while bytes.len() < 2 * n * k {
                bytes.extend_from_slice(&pattern);
            }
            bytes.truncate(2 * n * k);
            let tensor = HostTensor::new(WeightFormat::BF16, n, k, bytes.into());
            self.backend.prepare_weight(&[tensor]).expect("memory")
        };
        (0..count).map(prepare).collect()
    }

    /// Of one of many calls; `call` is given its number.
    fn seconds(&self, mut call: impl FnMut(&CudaBackend, usize) -> Result<(), BackendError>) -> f64 {
        let mut recorded = Recorded::default();
        let shape = StepShape {
            num_seqs: 1,
            max_blocks: 1,
        };
        let mut launch = || (0..CALLS).try_for_each(|i| call(&self.backend, i));
        let mut runs: Vec<f64> = (0..7)
            .map(|_| {
                let start = Instant::now();
                self.backend
                    .run_recorded(&mut recorded, shape, &mut launch)
                    .expect("calls");
                self.backend.synchronize().expect("calls");
                start.elapsed().as_secs_f64() / CALLS as f64
            })
            .skip(2)
            .collect();
        runs.sort_by(f64::total_cmp);
        runs[runs.len() / 2]
    }

    fn line(
        &self,
        name: &str,
        work: &Work,
        call: impl FnMut(&CudaBackend, usize) -> Result<(), BackendError>,
    ) {
        if !name.contains(&self.filter) {
            return;
        }
        let seconds = self.seconds(call);
        let (rate, tflops) = (work.bytes / seconds / 1e9, work.flops / seconds / 1e12);
        println!(
            "{name:40} {:9.2} us {rate:6.0} GB/s {:5.1} % {tflops:6.1} TFLOP/s {:5.1} %",
            seconds * 1e6,
            100.0 * rate / self.memory_rate,
            100.0 * tflops / self.compute_rate
        );
    }

    fn linear(&mut self, name: &str, weights: &[CudaWeight], (rows, n, k): (usize, usize, usize)) {
        let (x, mut out) = (self.random(rows * k), self.zeros(rows * n));
        let work = Work {
            bytes: (2 * (n * k + rows * (n + k))) as f64,
            flops: (2 * rows * n * k) as f64,
        };
        self.line(&format!("linear, {name}, {rows} rows"), &work, |backend, i| {
            backend.linear(&x, &weights[i % weights.len()], None, rows, &mut out)
        });
    }

    fn gated(&mut self, weights: &[CudaWeight], (rows, width, k): (usize, usize, usize)) {
        let (x, mut scratch, mut out) = (
            self.random(rows * k),
            self.zeros(2 * rows * width),
            self.zeros(rows * width),
        );
        let work = Work {
            bytes: (2 * (2 * width * k + rows * (width + k))) as f64,
            flops: (4 * rows * width * k) as f64,
        };
        self.line(&format!("linear_silu_mul, {rows} rows"), &work, |backend, i| {
            let weight = &weights[i % weights.len()];
            backend.linear_silu_mul(&x, weight, None, (rows, width), (&mut scratch, &mut out))
        });
    }

    fn rows(&mut self, rows: usize, width: usize, inner: usize) {
        let (x, mut out, weight) = (
            self.random(rows * width),
            self.zeros(rows * width),
            self.ones(width),
        );
        let mut residual = self.backend.alloc_f32(rows * width).expect("memory");
        let work = |bytes: usize| Work {
            bytes: bytes as f64,
            flops: 0.0,
        };
        let shape = (rows, width);
        self.line(
            &format!("add_rms_norm, {rows} rows"),
            &work(rows * width * 12),
            |backend, _| backend.add_rms_norm(&x, &mut residual, &weight, 1e-6, shape, &mut out),
        );
        let (gate_up, mut activated) = (self.random(2 * rows * inner), self.zeros(rows * inner));
        self.line(
            &format!("silu_mul, {rows} rows"),
            &work(rows * inner * 6),
            |backend, _| backend.silu_mul(&gate_up, rows, inner, &mut activated),
        );
    }

    /// The last `new` tokens of sequences of `context`; layers take turns.
    fn attention(&mut self, name: &str, (seqs, new, context): (usize, usize, usize)) {
        let (rows, blocks) = (seqs * new, context.div_ceil(BLOCK));
        let token_bytes = 4 * HEADS.kv_width();
        let num_layers = (COLD_BYTES / (seqs * context * token_bytes)).clamp(2, 36);
        let layout = KvLayout {
            num_layers,
            num_kv_heads: HEADS.num_kv_heads,
            head_dim: HEADS.head_dim,
            block_size: BLOCK,
            num_blocks: seqs * blocks,
            dtype: KvDtype::F16,
        };
        let mut cache: CudaKvCache = self.backend.alloc_kv_cache(&layout).expect("memory");
        let mut qkv = self.random(rows * HEADS.qkv_width());
        let mut out = self.zeros(rows * HEADS.q_width());
        let at = |seq: usize, i: usize| (seq * blocks * BLOCK + context - new + i) as u32;
        let slots: Vec<u32> = (0..rows).map(|row| at(row / new, row % new)).collect();
        let positions: Vec<u32> = (0..rows).map(|row| (context - new + row % new) as u32).collect();
        let (slots, positions) = (self.indices(&slots), self.indices(&positions));
        let offsets = self.indices(&(0..=seqs).map(|seq| (seq * new) as u32).collect::<Vec<_>>());
        let lens = self.indices(&vec![context as u32; seqs]);
        let tables = self.indices(&(0..(seqs * blocks) as u32).collect::<Vec<_>>());
        let table = self.backend.prepare_rope(&[0.1; 64], context).expect("memory");
        let norm = self.ones(HEADS.head_dim);
        let earlier = self.random(context * HEADS.qkv_width());
        for (layer, seq) in (0..num_layers).flat_map(|layer| (0..seqs).map(move |seq| (layer, seq))) {
            let first = (seq * blocks * BLOCK) as u32;
            let slots = self.indices(&(first..first + context as u32).collect::<Vec<_>>());
            self.backend
                .write_kv(&earlier, HEADS, &mut cache, layer, &slots, context)
                .expect("room");
        }
        let shape = format!("{name} {seqs} x {context}");
        let moved = |bytes: usize, flops: f64| Work {
            bytes: bytes as f64,
            flops,
        };
        let (eps, layer_of) = (1e-6, |i| i % num_layers);
        let weights = || QkNormWeights {
            q: &norm,
            k: &norm,
            eps,
        };
        let (positions, table, slots) = (&positions, &table, &slots);
        let rotary = || RotaryStep {
            positions,
            table,
            rows,
        };
        let touched = moved(rows * HEADS.qkv_width() * 4, 0.0);
        self.line(&format!("norm_rope_write_kv, {shape}"), &touched, |backend, i| {
            let (cache, layer) = (&mut cache, layer_of(i));
            let to = CacheSlots { cache, layer, slots };
            backend.norm_rope_write_kv(&mut qkv, HEADS, Some(weights()), rotary(), to)
        });
        let batch = PagedBatch {
            cu_seqlens_q: &offsets,
            context_lens: &lens,
            block_tables: &tables,
            max_blocks: blocks,
            num_seqs: seqs,
            rows,
        };
        let (batch, scale, window) = (&batch, 0.09, None);
        let seen = seqs as f64 * new as f64 * (context as f64 - (new - 1) as f64 / 2.0);
        let work = moved(seqs * context * token_bytes, 4.0 * HEADS.q_width() as f64 * seen);
        self.line(&format!("paged_attention, {shape}"), &work, |backend, i| {
            backend.paged_attention(&qkv, HEADS, &cache, layer_of(i), batch, scale, window, &mut out)
        });
        self.line(&format!("norm_rope_attention, {shape}"), &work, |backend, i| {
            let (cache, layer) = (&mut cache, layer_of(i));
            let to = CacheSlots { cache, layer, slots };
            let seen = PagedView { batch, scale, window };
            backend.norm_rope_attention(&mut qkv, HEADS, Some(weights()), rotary(), to, seen, &mut out)
        });
    }

    /// Greedy, top-k and top-p, with the upload of what each row asks for.
    fn sampling(&mut self, rows: usize, vocab: usize) {
        let mut logits = self.backend.alloc_f32(rows * vocab).expect("memory");
        let values: Vec<f32> = (0..(rows * vocab) as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 4096.0)
            .collect();
        self.backend.write(&values, &mut logits).expect("room");
        let mut ids = self.backend.alloc_indices(rows).expect("memory");
        for (name, temperature, top_k, top_p) in [
            ("greedy", 0.0, 0, 1.0),
            ("top-k", 1.0, 50, 1.0),
            ("top-p", 1.0, 0, 0.95),
        ] {
            let name = format!("sample, {name}, {rows} rows of {vocab}");
            if !name.contains(&self.filter) {
                continue;
            }
            let row = SampleRow {
                temperature,
                top_k,
                top_p,
                min_p: 0.0,
                repetition_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                logit_bias: &[],
                allowed: None,
                prompt: &[],
                generated: &[],
                seed: 1,
                position: 1,
            };
            let asked = vec![row; rows];
            let mut run = |calls: usize| {
                let start = Instant::now();
                for _ in 0..calls {
                    self.backend
                        .sample(&logits, vocab, &asked, &mut ids)
                        .expect("ids");
                }
                self.backend.synchronize().expect("ids");
                start.elapsed().as_secs_f64() / calls as f64
            };
            run(3);
            println!("{name:40} {:9.2} us", run(CALLS) * 1e6);
        }
    }
}
