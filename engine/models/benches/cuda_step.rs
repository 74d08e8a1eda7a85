//! Decode steps and prefill of one checkpoint on a GPU, or on several that share it: `cuda_step [--batch-invariant]
//! [--int8-output] FOLDER [COPY_RATE_GB_S [GPUS]]`.
//!
//! Prints one line a shape. Bytes are a GPU's share of the weights and of the keys and values, each read once; with the
//! rate at which the same machine copies, their share of it too.
#![allow(clippy::print_stdout)]

use std::{path::Path, thread, time::Instant};

use ferrum_engine::OutputLayer;
use ferrum_kernels::{
    Backend,
    backend::StepShape,
    cuda::{CudaBackend, CudaKvCache, Element, Link, Recorded},
};
use ferrum_models::{CausalLm, Checkpoint, ForwardBatch, LoadOptions, Model, open};

const BLOCK: usize = 16;
const DECODE: [(usize, usize); 6] = [(1, 512), (1, 4096), (4, 512), (16, 1024), (32, 1024), (64, 1024)];
const PREFILL: [(usize, usize); 3] = [(1, 512), (1, 2048), (8, 1024)];
const WARM_UP: usize = 5;
const STEPS: usize = 30;

fn main() {
    let is_flag = |argument: &String| argument.starts_with("--");
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let batch_invariant = has("--batch-invariant");
    let output_layer = match has("--int8-output") {
        true => OutputLayer::Int8,
        false => OutputLayer::Auto,
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| !is_flag(argument));
    let folder = arguments.next().expect("a folder with a checkpoint");
    let copy_rate: Option<f64> = arguments.next().map(|rate| rate.parse().expect("GB/s"));
    let count: usize = arguments.next().map_or(1, |count| count.parse().expect("GPUs"));
    let checkpoint = open(Path::new(&folder)).expect("a checkpoint");
    thread::scope(|scope| {
        for backend in CudaBackend::ranks(count, Element::Bf16, Link::Best).expect("GPUs") {
            let (checkpoint, backend) = (&checkpoint, backend.with_batch_invariance(batch_invariant));
            scope.spawn(move || run(backend, checkpoint, (copy_rate, output_layer)));
        }
    });
}

/// One rank; the first says what it measures.
fn run(backend: CudaBackend, checkpoint: &Checkpoint, (copy_rate, output_layer): (Option<f64>, OutputLayer)) {
    let rank = backend.rank();
    let tell = |line: String| {
        if rank.index == 0 {
            println!("{line}");
        }
    };
    let start = Instant::now();
    let options = LoadOptions {
        max_num_batched_tokens: 8192,
        max_num_seqs: 64,
        max_model_len: Some(4608),
        output_layer,
        ..LoadOptions::default()
    };
    let Model::Causal(model) = checkpoint.load(&backend, &options).expect("a model") else {
        panic!("a decoder is expected");
    };
    backend.synchronize().expect("weights");
    let weight_bytes = weight_bytes(checkpoint.path()) / rank.count as u64;
    let seconds = start.elapsed().as_secs_f64();
    tell(format!(
        "{} x {}, {} weights, {:.2} GB each loaded at {:.1} GB/s",
        rank.count,
        backend.facts().name,
        checkpoint.facts().weights,
        weight_bytes as f64 / 1e9,
        weight_bytes as f64 / 1e9 / seconds
    ));
    let layout = model.kv_layout(BLOCK, 64 * 66 + 300);
    let mut bench = Bench {
        batch: ForwardBatch::alloc(&backend, model.limits(), 4608 / BLOCK).expect("memory"),
        cache: backend.alloc_kv_cache(&layout).expect("memory"),
        token_bytes: layout.block_bytes() / BLOCK,
        backend,
        model,
        weight_bytes,
    };
    for (seqs, context) in DECODE {
        let ms = bench.decode(seqs, context);
        let bytes = bench.weight_bytes as f64 + (seqs * context * bench.token_bytes) as f64;
        let rate = bytes / ms / 1e6;
        let share = copy_rate.map_or_else(String::new, |copy| {
            format!(", {:.3} of the copy rate", rate / copy)
        });
        tell(format!(
            "decode {seqs} x {context}: {ms:.3} ms, {:.1} tok/s, {:.2} GB, {rate:.0} GB/s{share}",
            seqs as f64 / ms * 1e3,
            bytes / 1e9
        ));
    }
    for (seqs, tokens) in PREFILL {
        let ms = bench.prefill(seqs, tokens);
        tell(format!(
            "prefill {seqs} x {tokens}: {ms:.2} ms, {:.0} tok/s",
            (seqs * tokens) as f64 / ms * 1e3
        ));
    }
}

/// Of the weight files of a folder.
fn weight_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"));
    files.map(|file| file.metadata().expect("a file").len()).sum()
}

struct Bench {
    backend: CudaBackend,
    model: Box<dyn CausalLm<CudaBackend>>,
    batch: ForwardBatch<CudaBackend>,
    cache: CudaKvCache,
    token_bytes: usize,
    weight_bytes: u64,
}

impl Bench {
    /// Fills the inputs: `new` tokens of each sequence, the last at position `context - 1`.
    fn prepare(&mut self, seqs: usize, new: usize, context: usize) {
        let stride = context.div_ceil(BLOCK).next_power_of_two().min(4608 / BLOCK);
        let block = |seq: usize, at: usize| (seq * context.div_ceil(BLOCK) + at / BLOCK) as u32;
        let rows = || (0..seqs).flat_map(|seq| (context - new..context).map(move |at| (seq, at)));
        let vocab = self.model.vocab_size();
        let ids: Vec<u32> = rows()
            .map(|(seq, at)| ((seq * 7919 + at * 104_729) % vocab) as u32)
            .collect();
        let positions: Vec<u32> = rows().map(|(_, at)| at as u32).collect();
        let slots: Vec<u32> = rows()
            .map(|(seq, at)| block(seq, at) * BLOCK as u32 + (at % BLOCK) as u32)
            .collect();
        let firsts: Vec<u32> = (0..=seqs).map(|seq| (seq * new) as u32).collect();
        let lasts: Vec<u32> = (1..=seqs).map(|seq| (seq * new - 1) as u32).collect();
        let mut tables = Vec::new();
        for seq in 0..seqs {
            tables.extend((0..context.div_ceil(BLOCK)).map(|at| block(seq, at * BLOCK)));
            tables.resize((seq + 1) * stride, 0);
        }
        let batch = &mut self.batch;
        for (from, to) in [
            (&ids, &mut batch.ids),
            (&positions, &mut batch.positions),
            (&slots, &mut batch.slots),
            (&firsts, &mut batch.cu_seqlens_q),
            (&vec![context as u32; seqs], &mut batch.context_lens),
            (&tables, &mut batch.block_tables),
            (&lasts, &mut batch.logit_rows),
        ] {
            self.backend.write_indices(from, to).expect("room");
        }
        (batch.num_tokens, batch.num_seqs) = (seqs * new, seqs);
        (batch.num_logit_rows, batch.max_blocks) = (seqs, stride);
    }

    /// Milliseconds a step of `seqs` tokens.
    fn decode(&mut self, seqs: usize, context: usize) -> f64 {
        self.prepare(seqs, 1, context);
        let shape = StepShape {
            num_seqs: seqs,
            max_blocks: self.batch.max_blocks,
        };
        let mut recorded = Recorded::default();
        let Self {
            backend,
            model,
            batch,
            cache,
            ..
        } = self;
        median_ms(backend, STEPS, || {
            let mut launch = || model.forward(backend, batch, cache).map(drop);
            backend
                .run_recorded(&mut recorded, shape, &mut launch)
                .expect("a step");
        })
    }

    /// Milliseconds for `seqs` prompts of `tokens`, whole.
    fn prefill(&mut self, seqs: usize, tokens: usize) -> f64 {
        self.prepare(seqs, tokens, tokens);
        let Self {
            backend,
            model,
            batch,
            cache,
            ..
        } = self;
        median_ms(backend, 5, || {
            model.forward(backend, batch, cache).expect("a step");
        })
    }
}

/// Of three runs of `count` steps each.
fn median_ms(backend: &CudaBackend, count: usize, mut step: impl FnMut()) -> f64 {
    (0..WARM_UP).for_each(|_| step());
    backend.synchronize().expect("a step");
    let mut runs: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| step());
            backend.synchronize().expect("a step");
            start.elapsed().as_secs_f64() * 1e3 / count as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[1]
}
