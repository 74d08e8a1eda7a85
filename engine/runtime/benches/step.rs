//! What the loop costs, and what company brings.
//!
//!     cargo bench -p ferrum-runtime --bench step
//!
//! 1. Host time of a step: a model that computes nothing, so that only scheduling, gathering and sending are left.
//! 2. With FERRUM_TEST_MODELS (`make models`): decode of SmolLM2-135M Q4_1, 1, 2, 4 and 8 sequences.
#![allow(clippy::print_stdout)] // a bench prints

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Instant};

use ferrum_engine::{EngineHandle, LaunchConfig, Task};
use ferrum_kernels::{BackendError, backend::KvLayout};
use ferrum_models::{BatchLimits, CausalLm, ForwardBatch};
use ferrum_runtime::{Generator, launch};
use support::{
    MockBackend, card,
    checkpoints::real,
    requests::{collect, generate, start, wait},
};

/// Always the same logits.
struct NullModel {
    limits: BatchLimits,
    logits: Vec<f32>,
}

impl CausalLm<MockBackend> for NullModel {
    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn vocab_size(&self) -> usize {
        1
    }

    fn max_model_len(&self) -> usize {
        4096
    }

    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout {
        let dtype = ferrum_kernels::backend::KvDtype::F16;
        KvLayout {
            num_layers: 1,
            num_kv_heads: 1,
            head_dim: 1,
            block_size,
            num_blocks,
            dtype,
        }
    }

    fn forward(
        &mut self,
        _: &MockBackend,
        _: &ForwardBatch<MockBackend>,
        _: &mut Vec<Option<u32>>,
    ) -> Result<&Vec<f32>, BackendError> {
        Ok(&self.logits)
    }

    fn logits(&self) -> &Vec<f32> {
        &self.logits
    }
}

/// Microseconds a step of `num_seqs` sequences that decode from 2,000 to 3,000 tokens.
fn host_step_us(num_seqs: usize) -> f64 {
    let config = LaunchConfig {
        max_num_seqs: num_seqs,
        ..LaunchConfig::new("bench")
    };
    let limits = BatchLimits {
        max_num_batched_tokens: 512,
        max_num_seqs: num_seqs,
    };
    let model = NullModel {
        limits,
        logits: vec![1.0; num_seqs],
    };
    let num_blocks = num_seqs * 256;
    let generator = Generator::new(
        Arc::new(MockBackend),
        Box::new(model),
        &config,
        (num_blocks, 4096),
    );
    let mut card = card(Task::Chat, &config, num_blocks);
    card.max_model_len = 4096;
    let engine = generator
        .expect("there is memory")
        .spawn(card, &config)
        .expect("a thread");
    // Once to fill the prefix cache: after that a prompt is one step among a thousand.
    run_all(&*engine, num_seqs, 2000, 1);
    let times = (0..5).map(|_| run_all(&*engine, num_seqs, 2000, 1000));
    times
        .map(|(seconds, steps)| seconds * 1e6 / steps as f64)
        .fold(f64::INFINITY, f64::min)
}

/// Seconds and steps for `count` requests at once.
fn run_all(engine: &dyn EngineHandle, count: usize, prompt_len: usize, max_tokens: usize) -> (f64, u64) {
    let steps = engine.load().borrow().steps_total;
    let begin = Instant::now();
    let streams: Vec<_> = (0..count)
        .map(|index| {
            let prompt: Vec<u32> = (0..prompt_len)
                .map(|at| ((at + 97 * index) % 40_000) as u32)
                .collect();
            start(engine, generate(prompt, max_tokens))
        })
        .collect();
    let tokens: usize = streams
        .into_iter()
        .map(|stream| collect(stream).tokens.len())
        .sum();
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(tokens, count * max_tokens);
    wait(engine.idle());
    (seconds, engine.load().borrow().steps_total - steps)
}

fn main() {
    println!("host time of a decode step (no model)");
    for num_seqs in [1, 8, 32] {
        println!("{num_seqs:>4} sequences  {:>8.1} us", host_step_us(num_seqs));
    }
    if std::env::var_os("FERRUM_TEST_MODELS").is_none() {
        println!("FERRUM_TEST_MODELS is not set: no decode of real weights");
        return;
    }
    let path = real("SmolLM2-135M-Instruct.Q4_1.gguf");
    let config = LaunchConfig {
        max_model_len: Some(1024),
        ..LaunchConfig::new("bench")
    };
    let Ok(launched) = launch(&config, &path, |_| ()) else {
        panic!("it does not start")
    };
    println!("decode of SmolLM2-135M Q4_1, 16 tokens of prompt, 128 of answer");
    let mut one = 0.0;
    for count in [1, 2, 4, 8] {
        let best = (0..3)
            .map(|_| run_all(&*launched.engine, count, 16, 128).0)
            .fold(f64::INFINITY, f64::min);
        let rate = (count * 128) as f64 / best;
        one = if count == 1 { rate } else { one };
        println!(
            "{count:>4} sequences  {rate:>8.1} tok/s  {:>5.2} x one",
            rate / one
        );
    }
}
