//! Every decoder, with few random weights, through the whole engine.

mod support;

use ferrum_engine::LaunchConfig;
use ferrum_runtime::{LaunchFailure, launch};
use safetensors::SafeTensors;
use support::{
    checkpoints::{
        DENSE, assert_cancels_leave_no_block_behind, assert_invariant, eight_requests, fixture, start_decoder,
    },
    requests::{generate, run},
};

/// `input_ids` and `greedy` as the transformers library has them.
fn reference(name: &str) -> (Vec<u32>, Vec<u32>) {
    let bytes = std::fs::read(fixture(name).join("reference.safetensors")).expect("a reference");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let ids = |name: &str| {
        let tensor = tensors.tensor(name).expect("in the reference");
        let (ids, _) = tensor.data().as_chunks::<4>();
        ids.iter().map(|id| u32::from_le_bytes(*id)).collect()
    };
    (ids("input_ids"), ids("greedy"))
}

#[test]
fn greedy_tokens_are_those_of_the_reference_in_chunks_of_any_size() {
    for name in DENSE {
        let (prompt, greedy) = reference(name);
        for max_num_batched_tokens in [1, 5, 512] {
            let config = LaunchConfig {
                max_num_seqs: 1,
                max_num_batched_tokens,
                ..LaunchConfig::new("test")
            };
            let engine = start_decoder(&fixture(name), &config, 32);
            let tokens = run(&*engine, generate(prompt.clone(), greedy.len())).tokens;
            assert_eq!(tokens, greedy, "{name}, {max_num_batched_tokens} tokens a step");
        }
    }
}

#[test]
fn company_chunks_and_a_warm_cache_change_no_token() {
    for name in DENSE {
        // Longer than the window of tiny-mistral (16) and than several blocks.
        let requests = eight_requests(512, 70, 24);
        assert_invariant(|config| start_decoder(&fixture(name), config, 256), &requests);
    }
}

#[test]
fn a_thousand_requests_with_cancels_leave_no_block_behind() {
    let config = LaunchConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        ..LaunchConfig::new("test")
    };
    let engine = start_decoder(
        &fixture("tiny-llama"),
        &LaunchConfig {
            max_waiting: 1000,
            ..config
        },
        40,
    );
    assert_cancels_leave_no_block_behind(&engine);
    let load = *engine.load().borrow();
    assert_eq!((load.free_blocks, load.total_blocks), (40, 40));
}

fn launch_failure(name: &str, change: impl FnOnce(&mut LaunchConfig)) -> LaunchFailure {
    let mut config = LaunchConfig::new(fixture(name).display().to_string());
    change(&mut config);
    match launch(&config, &fixture(name), |_| ()) {
        Ok(_) => panic!("{name} should not start"),
        Err(failure) => failure,
    }
}

#[test]
fn a_launch_that_contradicts_the_weights_is_refused_by_its_own_error() {
    use ferrum_engine::{Quantization, Task};
    use ferrum_models::LoadError;

    let task = launch_failure("tiny-bert", |config| config.task = Some(Task::Chat));
    assert!(
        matches!(
            task,
            LaunchFailure::Task {
                wanted: Task::Chat,
                found: Task::Embedding,
                ..
            }
        ),
        "{task}"
    );
    let quantization = launch_failure("tiny-llama", |config| config.quantization = Quantization::Gguf);
    assert!(
        matches!(
            quantization,
            LaunchFailure::Load(LoadError::Option {
                option: "quantization",
                ..
            })
        ),
        "{quantization}"
    );
    let length = launch_failure("tiny-llama", |config| config.max_model_len = Some(100_000));
    assert!(
        matches!(
            length,
            LaunchFailure::Load(LoadError::Option {
                option: "max_model_len",
                ..
            })
        ),
        "{length}"
    );
    let tokenizer = launch_failure("tiny-llama", |_| ());
    assert!(
        matches!(tokenizer, LaunchFailure::Load(LoadError::MissingTokenizer { .. })),
        "{tokenizer}"
    );
    let config = launch_failure("tiny-llama", |config| config.max_num_seqs = 0);
    assert!(matches!(config, LaunchFailure::Config(_)), "{config}");
}
