//! Models split over GPUs. Needs two GPUs that reach one another's memory.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Reference, check_logits, decoder::Decoder, f32_tolerance, fixture, largest, ranks::Ranks};
use ferrum_kernels::cuda::{CudaBackend, Element, Link};
use ferrum_models::LoadOptions;

const FIXTURES: [&str; 8] = [
    "tiny-llama",
    "tiny-llama3-rope",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-llama-gptq-sym-g128",
    "tiny-qwen2-gptq-sym-g32",
    "tiny-qwen2-gptq-sym-g-1",
];
/// As in golden_llama.rs; golden_gptq.rs has fewer layers.
const LAYERS: usize = 3;
const LONGEST_SUM: usize = 128;

/// One test at a time: kernels of GPUs that share a model wait for one another, and what another test does beside them (giving
/// back a device waits for all of its kernels, and recordings for that) could keep the second from being asked for.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(name: &str, element: Element) -> Ranks<CudaBackend> {
    Ranks::load_on(
        CudaBackend::ranks(2, element, Link::Best).expect("two GPUs"),
        &fixture(name),
    )
}

#[test]
fn two_gpus_in_single_precision_equal_the_reference() {
    let _alone = alone();
    for name in FIXTURES {
        let reference = Reference::read(name);
        let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
        let largest = largest(&expected);
        let longest_sum = if name.contains("gptq") { 384 } else { LONGEST_SUM };
        let tolerance = f32_tolerance(LAYERS, longest_sum, largest);
        let mut ranks = load(name, Element::F32);
        check_logits(name, &ranks.prefill(&prompt).concat(), &expected, tolerance);
        let greedy = reference.ids("greedy");
        assert_eq!(ranks.greedy(&prompt, greedy.len()), greedy, "{name}");
    }
}

/// As in cuda.rs, with one rounding more in each sum over GPUs.
#[test]
fn two_gpus_in_half_precisions_are_as_near_as_their_roundings() {
    let _alone = alone();
    for name in FIXTURES {
        let reference = Reference::read(name);
        let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
        let largest = largest(&expected);
        for (element, bits) in [(Element::F16, 11), (Element::Bf16, 8)] {
            let logits = load(name, element).prefill(&prompt).concat();
            let sums = (2.0 * (LAYERS * 9 + 1) as f32).sqrt();
            let tolerance = 4.0 * sums * 2.0_f32.powi(-bits) * largest;
            let what = format!("{name} {}", element.name());
            check_logits(&what, &logits, &expected, tolerance);
        }
    }
}

#[test]
fn a_prompt_gives_the_same_bits_every_time() {
    let _alone = alone();
    let prompt = Reference::read("tiny-qwen3").ids("input_ids");
    let mut ranks = load("tiny-qwen3", Element::Bf16);
    let first = ranks.prefill(&prompt);
    for _ in 0..20 {
        assert_eq!(ranks.prefill(&prompt), first);
    }
    // Both GPUs are free for a model of their own afterwards.
    drop(ranks);
    for ordinal in [0, 1] {
        let backend = CudaBackend::new(ordinal, Element::F32).expect("a GPU");
        let mut decoder = Decoder::load_on(backend, &fixture("tiny-qwen3"), &LoadOptions::default());
        assert_eq!(decoder.prefill(&prompt).len(), prompt.len());
    }
}
