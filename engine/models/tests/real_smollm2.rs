//! SmolLM2-135M-Instruct from safetensors in single and half precision, and from the quantized GGUF file.

mod common;

use common::{
    decoder::Decoder,
    fixture,
    smollm2::{self, END_OF_TURN, EXACT, F16, F32, GGUF, MARGIN_CHECKED, Prompt},
    test_model,
};
use ferrum_engine::{OutputLayer, Quantization, Task};
use ferrum_kernels::backend::KvDtype;
use ferrum_models::{LoadOptions, open};

fn check_greedy(model: &str, prompts: &[&[Prompt]], output_layer: OutputLayer) {
    smollm2::check_greedy(common::backend(), model, prompts, output_layer);
}

#[test]
fn f32_safetensors_give_all_reference_ids() {
    check_greedy(F32, &[&EXACT, &MARGIN_CHECKED], OutputLayer::Auto);
}

#[test]
fn f16_safetensors_give_the_margin_checked_ids() {
    check_greedy(F16, &[&MARGIN_CHECKED], OutputLayer::Auto);
}

#[test]
fn an_output_layer_at_eight_bits_gives_the_margin_checked_ids() {
    check_greedy(F16, &[&MARGIN_CHECKED], OutputLayer::Int8);
}

#[test]
fn quantized_gguf_gives_the_margin_checked_ids() {
    check_greedy(GGUF, &[&MARGIN_CHECKED], OutputLayer::Auto);
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
