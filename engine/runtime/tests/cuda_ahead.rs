//! Engines on a GPU: the tokens do not depend on when the host gets to know them. Needs a GPU.

mod support;

use ferrum_engine::{LaunchConfig, SharedEngine};
use ferrum_kernels::{
    cpu::CpuBackend,
    cuda::{CudaBackend, Element},
};
use support::{
    checkpoints::{
        DENSE, assert_cancels_leave_no_block_behind, assert_free, eight_requests, fixture, start_running,
        without_penalties,
    },
    requests::{collect, generate, run, start, wait},
};

/// The CPU rounds activations to 8 bits before these, so that its tokens are others.
const QUANTIZED: [&str; 2] = ["tiny-llama-gptq-sym-g128", "tiny-qwen2-gptq-sym-g-1"];

fn config() -> LaunchConfig {
    LaunchConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_waiting: 1000,
        ..LaunchConfig::new("test")
    }
}

fn engine(name: &str, ahead: bool) -> SharedEngine {
    let backend = CudaBackend::new(0, Element::F32).expect("a GPU");
    start_running(ahead, vec![backend], &fixture(name), &config(), 256)
}

#[test]
fn asking_ahead_changes_no_token() {
    for name in DENSE.into_iter().chain(QUANTIZED) {
        let (ahead, awaiting) = (engine(name, true), engine(name, false));
        let mixed = eight_requests(512, 70, 40);
        let free = without_penalties(&mixed);
        for mut requests in [mixed, free] {
            // Recorded steps are met from the third request on.
            let mut expected: Vec<Vec<u32>> = requests
                .iter()
                .map(|request| run(&*awaiting, request.clone()).tokens)
                .collect();
            for (request, expected) in requests.iter().zip(&expected) {
                assert_eq!(&run(&*ahead, request.clone()).tokens, expected, "{name}");
            }
            // Every second ends by a stop token.
            for (request, expected) in requests.iter_mut().zip(&mut expected).step_by(2) {
                request.stop_token_ids = vec![expected[20]];
                let end = expected.iter().position(|token| *token == expected[20]);
                expected.truncate(end.expect("it is there") + 1);
            }
            let streams: Vec<_> = requests
                .iter()
                .map(|request| start(&*ahead, request.clone()))
                .collect();
            for (stream, expected) in streams.into_iter().zip(&expected) {
                assert_eq!(&collect(stream).tokens, expected, "{name}, in a batch");
            }
            assert_free(&ahead);
        }
    }
}

#[test]
fn greedy_tokens_of_dense_weights_are_the_cpus() {
    let prompt: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 512).collect();
    for name in DENSE {
        let cpu = start_running(false, vec![CpuBackend::new(2)], &fixture(name), &config(), 64);
        let expected = run(&*cpu, generate(prompt.clone(), 40)).tokens;
        assert_eq!(
            run(&*engine(name, true), generate(prompt.clone(), 40)).tokens,
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_thousand_requests_with_cancels_leave_no_block_behind() {
    assert_cancels_leave_no_block_behind(&engine("tiny-llama", true));
}

#[test]
fn time_and_memory_of_the_gpu_are_told() {
    let engine = engine("tiny-llama", true);
    run(&*engine, generate([1, 2, 3], 20));
    wait(engine.idle());
    let load = *engine.load().borrow();
    let (device, host) = (load.step_times.device, load.step_times.host);
    assert_eq!(device.counts.iter().sum::<u64>(), load.steps_total);
    assert!(device.seconds > 0.0 && host.seconds > 0.0);
    let memory = load.memory.expect("a GPU has memory of its own");
    assert!(memory.free_bytes < memory.total_bytes);
    assert!(memory.weights_bytes > 0 && memory.kv_cache_bytes > 0);
    assert!(memory.weights_bytes + memory.kv_cache_bytes < memory.total_bytes);
}
