//! SmolLM2-135M-Instruct on a GPU. Needs a GPU, and `FERRUM_TEST_MODELS` (`make models`).

mod common;

use common::smollm2::{EXACT, F16, F32, GGUF, MARGIN_CHECKED, Prompt, check_gptq, check_greedy};
use ferrum_engine::OutputLayer;
use ferrum_kernels::cuda::{CudaBackend, Element};

fn check(model: &str, element: Element, prompts: &[&[Prompt]]) {
    let backend = CudaBackend::new(0, element).expect("a GPU");
    check_greedy(backend, model, prompts, OutputLayer::Auto);
}

#[test]
fn single_precision_gives_all_reference_ids() {
    check(F32, Element::F32, &[&EXACT, &MARGIN_CHECKED]);
}

#[test]
fn half_precision_gives_the_margin_checked_ids() {
    check(F16, Element::F16, &[&MARGIN_CHECKED]);
}

#[test]
fn bfloat16_gives_the_margin_checked_ids() {
    check(F16, Element::Bf16, &[&MARGIN_CHECKED]);
}

#[test]
fn quantized_gguf_gives_the_margin_checked_ids() {
    check(GGUF, Element::Bf16, &[&MARGIN_CHECKED]);
}

/// In half precision logits of this model, at most about 30, are off by a few hundredths.
#[test]
fn gptq_gives_the_ids_of_its_dequantized_weights() {
    for (element, margin) in [(Element::F32, 0.0), (Element::F16, 0.25)] {
        check_gptq(CudaBackend::new(0, element).expect("a GPU"), margin);
    }
}
