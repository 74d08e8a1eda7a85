//! Engines over checkpoints, and what must hold for each of them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ferrum_engine::{GenerateRequest, LaunchConfig, ModelCard, SamplingParams, SharedEngine, Task};
use ferrum_kernels::{Backend, cpu::CpuBackend};
use ferrum_models::{CausalLm, LoadOptions, Model};
use ferrum_runtime::{Generator, RankModel};

use super::{
    card,
    requests::{collect, generate, run, start, wait},
};

/// Every decoder with dense random weights.
pub const DENSE: [&str; 5] = [
    "tiny-llama",
    "tiny-llama3-rope",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
];
/// Those that GPTQ has quantized.
pub const GPTQ: [&str; 4] = [
    "tiny-llama-gptq-sym-g128",
    "tiny-llama-gptq-asym-descact-g128",
    "tiny-qwen2-gptq-sym-g32",
    "tiny-qwen2-gptq-sym-g-1",
];

/// A checkpoint with random weights, from the tests of the models.
pub fn fixture(name: &str) -> PathBuf {
    // Elsewhere than where it was built, the test is told where its crate lies, as cargo would.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("../models/tests/fixtures").join(name)
}

/// Real weights.
///
/// # Panics
/// If they were not fetched.
pub fn real(name: &str) -> PathBuf {
    let folder = std::env::var_os("FERRUM_TEST_MODELS")
        .expect("FERRUM_TEST_MODELS is not set: run `make models`, then set it to .cache/models (make test does both)");
    let path = PathBuf::from(folder).join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}

/// A decoder over `path` with `num_blocks` blocks. For checkpoints without a tokenizer, which `launch` refuses.
pub fn start_decoder(path: &Path, config: &LaunchConfig, num_blocks: usize) -> SharedEngine {
    start_ranks(vec![CpuBackend::new(2)], path, config, num_blocks, |_, model| {
        model
    })
}

/// As [`start_decoder`], on the ranks of `backends`, with or without asking for a step before the one before it has brought
/// its tokens.
pub fn start_running<B: Backend>(
    ahead: bool,
    backends: Vec<B>,
    path: &Path,
    config: &LaunchConfig,
    num_blocks: usize,
) -> SharedEngine {
    let (generator, card) = generator(backends, path, config, num_blocks, |_, model| model);
    generator
        .running_ahead(ahead)
        .spawn(card, config)
        .expect("a thread")
}

/// As [`start_decoder`], on the ranks of `backends`; `change` may put another model in the place of a rank's.
pub fn start_ranks<B: Backend>(
    backends: Vec<B>,
    path: &Path,
    config: &LaunchConfig,
    num_blocks: usize,
    change: impl Fn(usize, Box<dyn CausalLm<B>>) -> Box<dyn CausalLm<B>>,
) -> SharedEngine {
    let (generator, card) = generator(backends, path, config, num_blocks, change);
    generator.spawn(card, config).expect("a thread")
}

/// What [`start_ranks`] starts, and its card.
pub fn generator<B: Backend>(
    backends: Vec<B>,
    path: &Path,
    config: &LaunchConfig,
    num_blocks: usize,
    change: impl Fn(usize, Box<dyn CausalLm<B>>) -> Box<dyn CausalLm<B>>,
) -> (Generator<B>, ModelCard) {
    let options = LoadOptions {
        max_num_batched_tokens: config.max_num_batched_tokens,
        max_num_seqs: config.max_num_seqs,
        ..LoadOptions::default()
    };
    let checkpoint = ferrum_models::open(path).expect("a checkpoint");
    let load = |(rank, backend): (usize, B)| match checkpoint.load(&backend, &options) {
        Ok(Model::Causal(model)) => RankModel {
            backend: Arc::new(backend),
            model: change(rank, model),
        },
        _ => panic!("{} is no decoder", path.display()),
    };
    let ranks: Vec<_> = backends.into_iter().enumerate().map(load).collect();
    let mut card = card(Task::Chat, config, num_blocks);
    card.max_model_len = ranks[0].model.max_model_len();
    card.vocab_size = ranks[0].model.vocab_size();
    let generator = Generator::on_ranks(ranks, config, (num_blocks, card.max_model_len));
    (generator.expect("there is memory"), card)
}

/// Eight requests, of which every second shares its first tokens with the one before; half of them greedy, half seeded.
pub fn eight_requests(vocab: u32, prompt_len: usize, max_tokens: usize) -> Vec<GenerateRequest> {
    mixed_requests(8, vocab, prompt_len, max_tokens)
}

/// As [`eight_requests`]; each is a token longer than the one before.
pub fn mixed_requests(count: u32, vocab: u32, prompt_len: usize, max_tokens: usize) -> Vec<GenerateRequest> {
    let request = |index: u32| {
        let ids = |salt: u32, len: usize| {
            (1..)
                .take(len)
                .map(move |at: u32| (at * (2 * salt + 7) + salt) % vocab)
        };
        let prompt: Vec<u32> = ids(index / 2, prompt_len * 3 / 4)
            .chain(ids(index + 50, prompt_len / 4 + index as usize))
            .collect();
        let seeded = SamplingParams {
            temperature: 0.9,
            top_k: 60,
            top_p: 0.95,
            repetition_penalty: 1.1,
            seed: u64::from(index),
            ..SamplingParams::default()
        };
        let sampling = if index % 4 < 2 {
            SamplingParams::default()
        } else {
            seeded
        };
        GenerateRequest {
            sampling,
            ..generate(prompt, max_tokens)
        }
    };
    (0..count).map(request).collect()
}

/// The same without penalties.
pub fn without_penalties(requests: &[GenerateRequest]) -> Vec<GenerateRequest> {
    let free = requests.iter().cloned().map(|request| GenerateRequest {
        sampling: SamplingParams {
            repetition_penalty: 1.0,
            ..request.sampling
        },
        ..request
    });
    free.collect()
}

/// A thousand requests, of which a quarter is cancelled on the way and most of what is left at once at the end; none keeps
/// a block.
pub fn assert_cancels_leave_no_block_behind(engine: &SharedEngine) {
    let mut live = Vec::new();
    for index in 0..1000_u32 {
        let prompt: Vec<u32> = (0..1 + index * 7 % 90).map(|at| (at + index % 5) % 512).collect();
        live.push(start(&**engine, generate(prompt, 1 + index as usize % 12)));
        match index % 4 {
            0 => drop(live.swap_remove(index as usize * 13 % live.len())),
            1 => {
                let stream = live.swap_remove(index as usize * 17 % live.len());
                assert!(collect(stream).finished.is_some());
            }
            _ => {}
        }
    }
    live.truncate(20);
    live.into_iter()
        .for_each(|stream| assert!(collect(stream).finished.is_some()));
    assert_free(engine);
}

/// Waits for idleness; asserts that every block is free then.
pub fn assert_free(engine: &SharedEngine) {
    wait(engine.idle());
    let load = *engine.load().borrow();
    assert_eq!(load.free_blocks, load.total_blocks, "no block is left behind");
}

/// Asserts that each request brings the same tokens alone, in a batch of 8, with the cache cold or warm, and with any
/// chunk size. `start_engine` takes the limits from its argument.
pub fn assert_invariant(start_engine: impl Fn(&LaunchConfig) -> SharedEngine, requests: &[GenerateRequest]) {
    let config = |max_num_seqs, max_num_batched_tokens, prefix_caching| LaunchConfig {
        max_num_seqs,
        max_num_batched_tokens,
        prefix_caching,
        ..LaunchConfig::new("test")
    };
    let one_by_one = start_engine(&config(1, 512, false));
    let expected: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| run(&*one_by_one, request.clone()).tokens)
        .collect();
    drop(one_by_one);
    for config in [
        config(8, 512, true),
        config(8, 8, true),
        config(8, 37, false),
        config(3, 50, true),
    ] {
        let engine = start_engine(&config);
        for temperature in ["cold", "warm"] {
            let streams: Vec<_> = requests
                .iter()
                .map(|request| start(&*engine, request.clone()))
                .collect();
            for (index, (stream, expected)) in streams.into_iter().zip(&expected).enumerate() {
                let outcome = collect(stream);
                let (tokens, batched) = (config.max_num_seqs, config.max_num_batched_tokens);
                assert_eq!(
                    &outcome.tokens, expected,
                    "request {index}, {tokens} sequences, {batched} tokens a step, {temperature} cache"
                );
                let cached = outcome.finished.expect("finished").1.cached_tokens;
                if temperature == "warm" {
                    let prompt = requests[index].prompt.len();
                    assert_eq!(
                        cached,
                        if config.prefix_caching {
                            (prompt - 1) / 16 * 16
                        } else {
                            0
                        }
                    );
                }
            }
        }
        assert_free(&engine);
    }
}
