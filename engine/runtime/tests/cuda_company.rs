//! Engines on a GPU under requests of many kinds at once. Needs one.

mod support;

use ferrum_engine::{LaunchConfig, SharedEngine};
use ferrum_kernels::cuda::{CudaBackend, Element};
use support::{
    checkpoints::{DENSE, GPTQ, assert_free, fixture, mixed_requests, start_ranks},
    requests::{collect, generate, run, start, wait},
};

fn start_gpu(name: &str, element: Element, config: &LaunchConfig, num_blocks: usize) -> SharedEngine {
    let backend = CudaBackend::new(0, element).expect("a GPU");
    let backend = backend.with_batch_invariance(config.batch_invariant);
    start_ranks(vec![backend], &fixture(name), config, num_blocks, |_, model| {
        model
    })
}

/// Greedy and seeded requests, prompts of 70 to 134 tokens.
#[test]
fn sixty_four_mixed_requests_give_the_tokens_of_single_runs_with_batch_invariance() {
    let config = |max_num_seqs, max_num_batched_tokens, prefix_caching| LaunchConfig {
        max_num_seqs,
        max_num_batched_tokens,
        prefix_caching,
        batch_invariant: true,
        ..LaunchConfig::new("test")
    };
    let requests = mixed_requests(64, 512, 70, 20);
    for (case, name) in DENSE.into_iter().chain(GPTQ).enumerate() {
        let element = [Element::Bf16, Element::F16][case % 2];
        let one_by_one = start_gpu(name, element, &config(1, 512, false), 1024);
        let expected: Vec<Vec<u32>> = requests
            .iter()
            .map(|request| run(&*one_by_one, request.clone()).tokens)
            .collect();
        drop(one_by_one);
        for config in [
            config(64, 512, false),
            config(64, 77, true),
            config(5, 2048, true),
        ] {
            let engine = start_gpu(name, element, &config, 1024);
            for temperature in ["cold", "warm"] {
                let streams: Vec<_> = requests
                    .iter()
                    .map(|request| start(&*engine, request.clone()))
                    .collect();
                for (index, (stream, expected)) in streams.into_iter().zip(&expected).enumerate() {
                    let (seqs, tokens) = (config.max_num_seqs, config.max_num_batched_tokens);
                    assert_eq!(
                        &collect(stream).tokens,
                        expected,
                        "{name}, request {index}, {seqs} sequences, {tokens} tokens a step, {temperature} cache"
                    );
                }
            }
            assert_free(&engine);
        }
    }
}

#[test]
fn a_thousand_random_requests_with_cancels_leave_no_block_behind() {
    for (name, element) in [
        ("tiny-qwen3", Element::Bf16),
        ("tiny-llama-gptq-asym-descact-g128", Element::F16),
    ] {
        let config = LaunchConfig {
            max_num_seqs: 64,
            max_num_batched_tokens: 256,
            max_waiting: 1000,
            ..LaunchConfig::new("test")
        };
        let num_blocks = 200;
        let engine = start_gpu(name, element, &config, num_blocks);
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below) as usize
        };
        let mut live = Vec::new();
        for _ in 0..1000 {
            let salt = random(5);
            let prompt: Vec<u32> = (0..1 + random(180))
                .map(|at| ((at + salt) % 512) as u32)
                .collect();
            live.push(start(&*engine, generate(prompt, 1 + random(40))));
            match random(4) {
                0 => drop(live.swap_remove(random(live.len() as u64))),
                1 => {
                    let stream = live.swap_remove(random(live.len() as u64));
                    let outcome = collect(stream);
                    assert!(outcome.finished.is_some(), "{name}: {outcome:?}");
                }
                _ => {}
            }
        }
        // Half of the rest is cancelled while it waits or runs.
        live.truncate(live.len() / 2);
        let outcomes = live.into_iter().map(collect);
        outcomes.for_each(|outcome| assert!(outcome.finished.is_some(), "{outcome:?}"));
        wait(engine.idle());
        let load = *engine.load().borrow();
        assert_eq!((load.free_blocks, load.total_blocks), (num_blocks, num_blocks));
    }
}
