//! The decoder against the transformers library, on small random checkpoints of every architecture.

mod common;

use common::{
    Reference, check_logits,
    decoder::{Chunk, Decoder, Rows},
    fixture, largest,
};
use ferrum_engine::{Dtype, OutputLayer};
use ferrum_models::LoadOptions;

/// All fixtures have 3 layers; the longest sum is over the MLP's 128 (or the attention's) inputs.
const LAYERS: usize = 3;
const LONGEST_SUM: usize = 128;

fn load(name: &str) -> Decoder {
    Decoder::load(&fixture(name), &LoadOptions::default())
}

fn check_against_reference(name: &str) {
    load(name).check_against_reference(name, LAYERS, LONGEST_SUM);
}

#[test]
fn llama_equals_the_reference() {
    check_against_reference("tiny-llama");
}

#[test]
fn llama3_rope_scaling_and_tied_embeddings_equal_the_reference() {
    check_against_reference("tiny-llama3-rope");
}

#[test]
fn mistral_beyond_its_sliding_window_equals_the_reference() {
    check_against_reference("tiny-mistral");
}

#[test]
fn qwen2_with_biases_equals_the_reference() {
    check_against_reference("tiny-qwen2");
}

#[test]
fn qwen3_with_head_norms_equals_the_reference() {
    check_against_reference("tiny-qwen3");
}

#[test]
fn a_prompt_in_chunks_gives_the_bits_of_a_prompt_in_one_step() {
    for name in ["tiny-llama", "tiny-mistral"] {
        let prompt = Reference::read(name).ids("input_ids");
        let mut decoder = load(name);
        let whole = decoder.prefill(&prompt);
        for chunk_len in [1, 5, 16] {
            let mut start = 0;
            for ids in prompt.chunks(chunk_len) {
                let chunk = Chunk {
                    sequence: 1,
                    start,
                    ids,
                };
                let logits = decoder.step(&[chunk], Rows::All);
                assert_eq!(
                    logits,
                    whole[start..start + ids.len()],
                    "{name}, chunks of {chunk_len}, at {start}"
                );
                start += ids.len();
            }
        }
    }
}

#[test]
fn a_sequence_in_a_mixed_batch_gives_the_bits_it_gives_alone() {
    let prompt = Reference::read("tiny-qwen3").ids("input_ids");
    let mut decoder = load("tiny-qwen3");
    let alone = decoder.prefill(&prompt);
    let other: Vec<u32> = prompt.iter().rev().copied().collect();
    let chunk = |sequence, start, ids| Chunk { sequence, start, ids };
    decoder.step(
        &[chunk(1, 0, &prompt[..23]), chunk(2, 0, &other[..7])],
        Rows::Last,
    );
    // One decode row, the middle of one prompt and the whole of another.
    let step = [
        chunk(1, 23, &prompt[23..]),
        chunk(2, 7, &other[7..20]),
        chunk(3, 0, &prompt),
    ];
    let rows = decoder.step(&step, Rows::Last);
    assert_eq!(rows[0], alone[23]);
    assert_eq!(rows[2], alone[23]);
}

#[test]
fn a_step_beyond_the_limits_is_refused() {
    let options = LoadOptions {
        max_num_batched_tokens: 8,
        ..LoadOptions::default()
    };
    let mut decoder = Decoder::load(&fixture("tiny-llama"), &options);
    assert_eq!(decoder.model.limits().max_num_batched_tokens, 8);
    let backend = common::backend();
    let limits = ferrum_models::BatchLimits {
        max_num_batched_tokens: 9,
        max_num_seqs: 1,
    };
    let mut batch = ferrum_models::ForwardBatch::alloc(&backend, limits, 1).expect("a batch");
    batch.num_tokens = 9;
    let mut cache = {
        use ferrum_kernels::Backend;
        backend
            .alloc_kv_cache(&decoder.model.kv_layout(16, 1))
            .expect("a cache")
    };
    let error = decoder
        .model
        .forward(&backend, &batch, &mut cache)
        .expect_err("a refusal");
    assert_eq!(
        error.to_string(),
        "shape mismatch: a step of 9 tokens, the model has room for 8"
    );
}

/// Rounding the weights moves a logit by about 2^-p of its size at each of the chained sums, p the bits kept: far more
/// than a reordered sum, and far less than a mistaken conversion.
#[test]
fn weights_convert_to_half_precision_at_load() {
    let reference = Reference::read("tiny-llama");
    let expected = reference.floats("logits");
    let largest = largest(&expected);
    for (dtype, bits) in [(Dtype::F16, 11), (Dtype::Bf16, 8)] {
        let options = LoadOptions {
            dtype,
            ..LoadOptions::default()
        };
        let mut decoder = Decoder::load(&fixture("tiny-llama"), &options);
        let logits = decoder.prefill(&reference.ids("input_ids")).concat();
        let sums = ((LAYERS * 7 + 1) as f32).sqrt();
        let tolerance = 4.0 * sums * 2.0_f32.powi(-bits) * largest;
        let difference = check_logits(&dtype.to_string(), &logits, &expected, tolerance);
        assert!(difference > 0.0, "{dtype}: nothing was rounded");
    }
}

/// A level errs by up to half the scale, a 127th of the largest of 32 weights, which is about 2.2 deviations; that is 0.005 of
/// a weight's size, as much again for activations, which the CPU rounds likewise. A logit, one sum of them, errs by as
/// large a part of its size; eight deviations.
#[test]
fn an_output_layer_at_eight_bits_is_near_the_dense_one() {
    for (name, is_tied) in [("tiny-llama", false), ("tiny-qwen2", true)] {
        let reference = Reference::read(name);
        let expected = reference.floats("logits");
        let options = LoadOptions {
            output_layer: OutputLayer::Int8,
            ..LoadOptions::default()
        };
        let mut decoder = Decoder::load(&fixture(name), &options);
        let logits = decoder.prefill(&reference.ids("input_ids")).concat();
        let tolerance = 8.0 * (2.0_f32).sqrt() * 0.005 * largest(&expected);
        let difference = check_logits(name, &logits, &expected, tolerance);
        // The first deviation of f32 is in the sixth digit.
        assert!(difference > 1e-4, "{name} (tied: {is_tied}): nothing was rounded");
    }
}
