//! SmolLM2-135M-Instruct and all-MiniLM-L6-v2 through `launch` and the engine.

mod support;

use std::sync::{Arc, Mutex};

use ferrum_engine::{FinishReason, GenerateRequest, LaunchConfig, Phase, Task};
use ferrum_runtime::{LaunchFailure, Launched, launch};
use support::{
    checkpoints::{assert_invariant, eight_requests, real},
    requests::{collect, embed, generate, run},
};

const F16: &str = "smollm2-135m-instruct";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const MINILM: &str = "all-minilm-l6-v2";

/// Launches one of the above, with room for little, so that tests can stand side by side.
fn start_model(name: &str, config: &LaunchConfig) -> Launched {
    let path = real(name);
    let config = LaunchConfig {
        model: path.display().to_string(),
        max_model_len: config.max_model_len.or((name != MINILM).then_some(512)),
        ..config.clone()
    };
    match launch(&config, &path, |_| ()) {
        Ok(launched) => launched,
        Err(failure) => panic!("{name}: {failure}"),
    }
}

fn default_config() -> LaunchConfig {
    LaunchConfig::new("test")
}

/// The prompt of a chat, as SmolLM2's template renders it.
fn chat(launched: &Launched, question: &str) -> Vec<u32> {
    let text = format!(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    );
    launched
        .tokenizer
        .encode(text, false)
        .expect("tokenizes")
        .get_ids()
        .to_vec()
}

/// Prompts whose greedy path the transformers library (f32) takes with a margin of at least 0.5 between the first and
/// the second logit at every token, so that any sound arithmetic takes it.
fn assert_margin_checked(name: &str) {
    let launched = start_model(name, &default_config());
    let greedy = |prompt: Vec<u32>, max_tokens| {
        let stop_token_ids = launched.card.stop_token_ids.clone();
        run(
            &*launched.engine,
            GenerateRequest {
                stop_token_ids,
                ..generate(prompt, max_tokens)
            },
        )
    };
    let capital = greedy(
        chat(
            &launched,
            "What is the capital of France? Answer in one sentence.",
        ),
        32,
    );
    assert_eq!(capital.tokens, [504, 3575, 282, 4649, 314, 7042, 30, 2]);
    assert_eq!(
        capital.finished.map(|(reason, _)| reason),
        Some(FinishReason::Stop)
    );
    let sum = greedy(chat(&launched, "What is 2+2?"), 32);
    assert_eq!(
        sum.tokens,
        [504, 2988, 288, 451, 8170, 4119, 1732, 314, 216, 36, 30, 2]
    );
    let counting = launched
        .tokenizer
        .encode("1, 2, 3, 4, 5, 6, 7,", false)
        .expect("tokenizes");
    let numbers = greedy(counting.get_ids().to_vec(), 32);
    assert_eq!(
        numbers.tokens,
        [
            216, 40, 28, 216, 41, 28, 216, 33, 32, 28, 216, 33, 33, 28, 216, 33, 34, 28, 216, 33, 35, 28,
            216, 33, 36, 28, 216, 33, 37, 28, 216, 33
        ]
    );
}

#[test]
fn smollm2_f16_takes_the_margin_checked_paths() {
    assert_margin_checked(F16);
}

#[test]
fn smollm2_gguf_takes_the_margin_checked_paths() {
    assert_margin_checked(GGUF);
}

#[test]
fn smollm2_f16_gives_the_same_tokens_in_any_company() {
    assert_invariant(
        |config| start_model(F16, config).engine,
        &eight_requests(49_152, 40, 8),
    );
}

#[test]
fn smollm2_gguf_gives_the_same_tokens_in_any_company() {
    assert_invariant(
        |config| start_model(GGUF, config).engine,
        &eight_requests(49_152, 60, 16),
    );
}

#[test]
fn a_launch_tells_its_phases_and_its_card() {
    let phases = Arc::new(Mutex::new(Vec::new()));
    let path = real(GGUF);
    let config = LaunchConfig::new(path.display().to_string());
    let told = Arc::clone(&phases);
    let launched = launch(&config, &path, move |phase| {
        told.lock().expect("alone").push(phase)
    });
    let card = launched
        .map(|launched| launched.card)
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        (card.task, card.architecture.as_str(), card.vocab_size),
        (Task::Chat, "llama", 49_152)
    );
    assert_eq!(
        (card.max_model_len, card.block_size, card.num_blocks),
        (8192, 16, 8 * 512)
    );
    assert_eq!(card.served_names, ["SmolLM2-135M-Instruct.Q4_1"]);
    let phases = phases.lock().expect("alone");
    assert_eq!(phases.first(), Some(&Phase::Loading { done: 0, total: 0 }));
    assert!(matches!(phases[phases.len() - 2], Phase::Loading { done, total } if done == total && total > 0));
    assert_eq!(phases.last(), Some(&Phase::Warming));
}

#[test]
fn a_cache_that_is_too_small_says_what_is_missing_or_shortens_the_sequences() {
    let path = real(GGUF);
    let config = LaunchConfig {
        kv_cache_memory: Some(64 << 20),
        max_model_len: Some(8192),
        ..LaunchConfig::new(path.display().to_string())
    };
    match launch(&config, &path, |_| ()) {
        Err(LaunchFailure::KvCacheTooSmall(refusal)) => {
            assert_eq!((refusal.max_model_len, refusal.granted), (8192, 64 << 20));
            assert!(
                refusal.needed > refusal.granted && refusal.longest > 1000,
                "{refusal}"
            );
        }
        Err(failure) => panic!("{failure}"),
        Ok(_) => panic!("it should not start"),
    }
    let card = match launch(
        &LaunchConfig {
            max_model_len: None,
            ..config
        },
        &path,
        |_| (),
    ) {
        Ok(launched) => launched.card,
        Err(failure) => panic!("{failure}"),
    };
    assert_eq!(card.max_model_len, card.num_blocks * 16 + 1);
}

#[test]
fn minilm_gives_the_known_vectors_alone_and_in_a_batch() {
    // sentence-transformers' vectors, the first 4 of 384 elements, normalised.
    let texts = [
        (
            "The quick brown fox jumps over the lazy dog.",
            [0.043_934, 0.058_934, 0.048_178, 0.077_548],
        ),
        // Its mean-pooled values over its norm.
        (
            "A fast auburn fox leaps over a sleepy hound.",
            [0.163_318, 0.190_410, 0.187_101, 0.635_115].map(|x: f32| x / 5.829_01),
        ),
    ];
    let launched = start_model(MINILM, &default_config());
    let ids = |text: &str| {
        launched
            .tokenizer
            .encode(text, true)
            .expect("tokenizes")
            .get_ids()
            .to_vec()
    };
    let submit = |text: &str| launched.engine.submit(embed(ids(text))).expect("taken");
    let alone: Vec<_> = texts
        .map(|(text, _)| collect(submit(text)).vector.expect("a vector"))
        .to_vec();
    let filler = "Interest rates rose by a quarter point on Tuesday.".repeat(5);
    let others: Vec<_> = (0..30).map(|_| submit(&filler)).collect();
    let batched = texts.map(|(text, _)| collect(submit(text)).vector.expect("a vector"));
    others
        .into_iter()
        .for_each(|stream| assert!(collect(stream).vector.is_some()));
    for ((alone, batched), (text, expected)) in alone.iter().zip(&batched).zip(texts) {
        assert_eq!(alone, batched, "{text}");
        assert_eq!(alone.len(), 384);
        for (found, expected) in alone.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{text}: {found} for {expected}");
        }
    }
}
