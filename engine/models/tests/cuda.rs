//! The models on a GPU, against the transformers library. Needs a GPU.

mod common;

use common::{
    Reference, check_logits,
    decoder::{Chunk, Decoder, Rows},
    fixture, largest,
};
use ferrum_kernels::cuda::{CudaBackend, Element};
use ferrum_models::LoadOptions;

const FIXTURES: [&str; 9] = [
    "tiny-llama",
    "tiny-llama3-rope",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-llama-gptq-sym-g128",
    "tiny-llama-gptq-asym-descact-g128",
    "tiny-qwen2-gptq-sym-g32",
    "tiny-qwen2-gptq-sym-g-1",
];
/// As in golden_llama.rs; golden_gptq.rs has fewer layers and, in the MLP, longer sums.
const LAYERS: usize = 3;
const LONGEST_SUM: usize = 128;

fn load(name: &str, element: Element) -> Decoder<CudaBackend> {
    let backend = CudaBackend::new(0, element).expect("a GPU");
    Decoder::load_on(backend, &fixture(name), &LoadOptions::default())
}

#[test]
fn single_precision_equals_the_reference() {
    for name in FIXTURES {
        let longest_sum = if name.contains("gptq") { 384 } else { LONGEST_SUM };
        load(name, Element::F32).check_against_reference(name, LAYERS, longest_sum);
    }
}

/// Each of the chained sums rounds its inputs and its result to the bits kept.
#[test]
fn half_precisions_are_as_near_as_their_roundings() {
    for name in FIXTURES {
        let reference = Reference::read(name);
        let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
        let largest = largest(&expected);
        for (element, bits) in [(Element::F16, 11), (Element::Bf16, 8)] {
            let logits = load(name, element).prefill(&prompt).concat();
            let sums = (2.0 * (LAYERS * 7 + 1) as f32).sqrt();
            let tolerance = 4.0 * sums * 2.0_f32.powi(-bits) * largest;
            let what = format!("{name} {}", element.name());
            let difference = check_logits(&what, &logits, &expected, tolerance);
            assert!(difference > 0.0, "{what}: nothing was rounded");
        }
    }
}

#[test]
fn a_prompt_in_chunks_gives_the_bits_of_a_prompt_in_one_step() {
    let prompt = Reference::read("tiny-llama").ids("input_ids");
    let mut decoder = load("tiny-llama", Element::F32);
    let whole = decoder.prefill(&prompt);
    for chunk_len in [1, 5, 16] {
        for (at, ids) in prompt.chunks(chunk_len).enumerate() {
            let start = at * chunk_len;
            let logits = decoder.step(
                &[Chunk {
                    sequence: 1,
                    start,
                    ids,
                }],
                Rows::All,
            );
            assert_eq!(
                logits,
                whole[start..start + ids.len()],
                "chunks of {chunk_len}, at {start}"
            );
        }
    }
}
