//! SmolLM2-135M-Instruct from safetensors in single and half precision, and from the quantized GGUF file.
//!
//! The ids come from the transformers library in f32 on the dequantized weights; llama.cpp gives the same on the same
//! weights. `MARGIN_CHECKED` prompts keep at least 0.5 between the two likeliest tokens on the whole path, so that
//! rounding weights or activations cannot change them; the first two of `EXACT` come as near as 0.017 and only f32 can
//! be held to them.

mod common;

use common::{decoder::Decoder, fixture, test_model};
use ferrum_engine::{Quantization, Task};
use ferrum_kernels::backend::KvDtype;
use ferrum_models::{LoadOptions, open};

const F16: &str = "smollm2-135m-instruct";
const F32: &str = "smollm2-135m-instruct-f32";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const END_OF_TURN: u32 = 2;
const MAX_TOKENS: usize = 32;

struct Prompt {
    text: &'static str,
    chat: bool,
    ids: &'static [u32],
}

const EXACT: [Prompt; 3] = [
    Prompt {
        text: "What is the capital of France?",
        chat: true,
        ids: &[504, 3575, 282, 4649, 314, 7042, 30, 2],
    },
    Prompt {
        text: "The quick brown fox",
        chat: false,
        ids: &[
            351, 253, 2365, 6354, 7012, 30, 198, 198, 504, 2798, 6330, 314, 253, 8170, 1183, 282, 253, 4500,
            26997, 34631, 28, 837, 827, 1924, 351, 896, 37610, 359, 804, 288, 7218, 253,
        ],
    },
    Prompt {
        text: "def fibonacci(n):\n    ",
        chat: false,
        ids: &[
            753, 3987, 46477, 24, 94, 727, 466, 585, 304, 1758, 216, 32, 42, 7396, 1003, 216, 33, 466, 4698,
            304, 1758, 216, 33, 42, 7396, 1003, 216, 33, 466, 1745, 42, 7396,
        ],
    },
];

const MARGIN_CHECKED: [Prompt; 3] = [
    Prompt {
        text: "What is the capital of France? Answer in one sentence.",
        chat: true,
        ids: &[504, 3575, 282, 4649, 314, 7042, 30, 2],
    },
    Prompt {
        text: "What is 2+2?",
        chat: true,
        ids: &[504, 2988, 288, 451, 8170, 4119, 1732, 314, 216, 36, 30, 2],
    },
    Prompt {
        text: "1, 2, 3, 4, 5, 6, 7,",
        chat: false,
        ids: &[
            216, 40, 28, 216, 41, 28, 216, 33, 32, 28, 216, 33, 33, 28, 216, 33, 34, 28, 216, 33, 35, 28,
            216, 33, 36, 28, 216, 33, 37, 28, 216, 33,
        ],
    },
];

impl Prompt {
    /// What the model's chat template makes of it.
    fn render(&self) -> String {
        if !self.chat {
            return self.text.to_owned();
        }
        let system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
        format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
            self.text
        )
    }
}

fn check_greedy(model: &str, prompts: &[&[Prompt]]) {
    let path = test_model(model);
    let tokenizer = open(&path)
        .expect("a checkpoint")
        .tokenizer()
        .expect("a tokenizer");
    let options = LoadOptions {
        max_model_len: Some(512),
        ..LoadOptions::default()
    };
    let mut decoder = Decoder::load(&path, &options);
    for prompt in prompts.iter().copied().flatten() {
        let encoding = tokenizer.encode(prompt.render(), false).expect("ids");
        let ids = decoder.greedy(encoding.get_ids(), MAX_TOKENS, &[END_OF_TURN]);
        assert_eq!(ids, prompt.ids, "{model}: {:?}", prompt.text);
    }
}

#[test]
fn f32_safetensors_give_all_reference_ids() {
    check_greedy(F32, &[&EXACT, &MARGIN_CHECKED]);
}

#[test]
fn f16_safetensors_give_the_margin_checked_ids() {
    check_greedy(F16, &[&MARGIN_CHECKED]);
}

#[test]
fn quantized_gguf_gives_the_margin_checked_ids() {
    check_greedy(GGUF, &[&MARGIN_CHECKED]);
}

fn perplexity(model: &str) -> f64 {
    let path = test_model(model);
    let tokenizer = open(&path)
        .expect("a checkpoint")
        .tokenizer()
        .expect("a tokenizer");
    let text = std::fs::read_to_string(fixture("alice.txt")).expect("the text");
    let encoding = tokenizer.encode(text, false).expect("ids");
    let options = LoadOptions {
        max_model_len: Some(2048),
        max_num_seqs: 128,
        max_num_batched_tokens: 128,
        ..LoadOptions::default()
    };
    let perplexity = Decoder::load(&path, &options)
        .mean_loss(encoding.get_ids(), 128)
        .exp();
    common::report(format_args!(
        "{model}: perplexity {perplexity:.4} over {} tokens",
        encoding.get_ids().len()
    ));
    perplexity
}

#[test]
fn quantized_perplexity_is_within_half_a_percent_of_the_dequantized_one() {
    let (dense, quantized) = (perplexity(F32), perplexity(GGUF));
    let change = quantized / dense - 1.0;
    common::report(format_args!("change {:+.3} %", 100.0 * change));
    assert!(
        change.abs() <= 0.005,
        "{dense} dequantized, {quantized} quantized"
    );
}

#[test]
fn the_cards_say_what_the_checkpoints_are() {
    for (model, weights) in [(F16, "f16"), (F32, "f32"), (GGUF, "gguf Q4_1")] {
        let checkpoint = open(&test_model(model)).expect("a checkpoint");
        let facts = checkpoint.facts();
        assert_eq!(
            (facts.task, facts.architecture.as_str()),
            (Task::Chat, "llama"),
            "{model}"
        );
        assert_eq!(
            (facts.weights.as_str(), facts.num_parameters),
            (weights, 134_515_008),
            "{model}"
        );
        assert_eq!((facts.vocab_size, facts.max_model_len), (49_152, 8192), "{model}");
        assert_eq!(facts.bos_token.as_deref(), Some("<|im_start|>"), "{model}");
        assert_eq!(facts.eos_token.as_deref(), Some("<|im_end|>"), "{model}");
        assert!(facts.stop_token_ids.contains(&END_OF_TURN), "{model}");
        let template = facts.chat_template.as_deref().expect("a chat template");
        assert!(
            template.contains("You are a helpful AI assistant named SmolLM"),
            "{model}"
        );
    }
}

#[test]
fn quantized_weights_are_refused_where_none_are_wanted() {
    let options = LoadOptions {
        quantization: Quantization::None,
        ..LoadOptions::default()
    };
    let checkpoint = open(&test_model(GGUF)).expect("a checkpoint");
    let error = checkpoint
        .load(&common::backend(), &options)
        .err()
        .expect("a refusal")
        .to_string();
    assert!(
        error.starts_with("quantization is none; expected auto or gguf, as "),
        "{error}"
    );
}

#[test]
fn keys_and_values_are_exact_beside_dense_weights_and_halves_beside_quantized_ones() {
    let options = LoadOptions {
        max_model_len: Some(64),
        ..LoadOptions::default()
    };
    for (model, dtype) in [(F16, KvDtype::F32), (GGUF, KvDtype::F16)] {
        let layout = Decoder::load(&test_model(model), &options).model.kv_layout(16, 4);
        assert_eq!(layout.dtype, dtype, "{model}");
        assert_eq!(
            (layout.num_layers, layout.num_kv_heads, layout.head_dim),
            (30, 3, 64)
        );
    }
}
