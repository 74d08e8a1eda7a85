//! Decoders split over several devices give what one device gives; here the devices are threads.

mod common;

use std::time::Duration;

use common::{Reference, check_logits, f32_tolerance, fixture, folder::Folder, largest, ranks::Ranks};
use ferrum_kernels::cpu::CpuBackend;
use ferrum_models::{LoadError, LoadOptions, open};

const FIXTURES: [&str; 5] = [
    "tiny-llama",
    "tiny-llama3-rope",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
];
/// As in golden_llama.rs.
const LAYERS: usize = 3;
const LONGEST_SUM: usize = 128;

fn cpus(count: usize) -> Vec<CpuBackend> {
    CpuBackend::ranks(count, 1, Duration::from_secs(60))
}

/// With four ranks each of the two key heads is had by two of them.
#[test]
fn every_decoder_on_two_and_four_ranks_equals_the_reference() {
    for name in FIXTURES {
        let reference = Reference::read(name);
        let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
        let tolerance = f32_tolerance(LAYERS, LONGEST_SUM, largest(&expected));
        for count in [2, 4] {
            let mut ranks = Ranks::load_on(cpus(count), &fixture(name));
            let what = format!("{name}, {count} ranks");
            check_logits(&what, &ranks.prefill(&prompt).concat(), &expected, tolerance);
            let greedy = reference.ids("greedy");
            assert_eq!(
                ranks.greedy(&prompt, greedy.len()),
                greedy,
                "{name}, {count} ranks"
            );
        }
    }
}

fn refusal(path: &std::path::Path, count: usize) -> LoadError {
    let backend = cpus(count).swap_remove(0);
    match open(path)
        .expect("a checkpoint")
        .load(&backend, &LoadOptions::default())
    {
        Ok(_) => panic!("{count} ranks should be refused"),
        Err(refusal) => refusal,
    }
}

#[test]
fn a_number_of_ranks_that_does_not_divide_the_heads_is_refused() {
    let refusal = refusal(Folder::of("tiny-llama").path(), 3).to_string();
    assert_eq!(
        refusal,
        "tensor_parallel is 3; expected one of 1, 2, 4, as the model has 4 query heads and 2 key heads"
    );
}

#[test]
fn an_encoder_runs_on_one_device() {
    let refusal = refusal(&fixture("tiny-bert"), 2).to_string();
    assert_eq!(
        refusal,
        "tensor_parallel is 2; expected 1, as embedding models run on one device"
    );
}
