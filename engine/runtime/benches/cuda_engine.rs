//! An engine without HTTP on a GPU, or on several that share the model: `cuda_engine FOLDER [STREAMS,... [GPUS]]`, steps
//! awaited and asked for ahead.
//!
//! Prints one line for each number of streams and way of drawing: a decode step as clients have it, the device's part
//! of it, and the share for which the device waits for the host. FOLDER needs no tokenizer.
#![allow(clippy::print_stdout)] // a bench prints

#[path = "../tests/support/mod.rs"]
mod support;

use std::{path::Path, time::Instant};

use ferrum_engine::{EngineLoad, GenerateRequest, LaunchConfig, SamplingParams, SharedEngine};
use ferrum_kernels::cuda::{CudaBackend, Element, Link};
use support::{
    checkpoints::start_running,
    requests::{collect, generate, start, wait},
};

const PROMPT: usize = 64;
const TOKENS: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let folder = arguments.next().expect("a folder with a checkpoint");
    let streams = arguments.next().unwrap_or_else(|| "1,16,64".to_owned());
    let gpus: usize = arguments
        .next()
        .map_or(1, |count| count.parse().expect("a number of GPUs"));
    let config = LaunchConfig {
        max_num_seqs: 64,
        max_num_batched_tokens: 4096,
        prefix_caching: false,
        ..LaunchConfig::new("bench")
    };
    for ahead in [false, true] {
        let backends = CudaBackend::ranks(gpus, Element::Bf16, Link::Best).expect("GPUs");
        let engine = start_running(ahead, backends, Path::new(&folder), &config, 64 * 24);
        for count in streams
            .split(',')
            .map(|count| count.parse().expect("a number of streams"))
        {
            for (drawing, temperature, top_p) in [("greedy", 0.0, 1.0), ("top-p", 1.0, 0.95)] {
                let sampling = SamplingParams {
                    temperature,
                    top_p,
                    ..SamplingParams::default()
                };
                // Once for what is set up when first met.
                decode(&engine, count, &sampling);
                let way = if ahead { "asked ahead" } else { "awaited" };
                let (seconds, before, after) = decode(&engine, count, &sampling);
                let steps = (after.steps_total - before.steps_total) as f64;
                let part = |times: fn(&EngineLoad) -> f64| times(&after) - times(&before);
                let device = part(|load| load.step_times.device.seconds);
                let host = part(|load| load.step_times.host.seconds);
                println!(
                    "{way:12} {count:3} streams, {drawing:6} {:8.3} ms a step, device {:8.3} ms, host share {:5.1} %, {:8.0} tok/s",
                    seconds / steps * 1e3,
                    device / steps * 1e3,
                    100.0 * host / (host + device),
                    (count * TOKENS) as f64 / seconds
                );
            }
        }
    }
}

/// Seconds until `count` requests have all their tokens, and the load before and after.
fn decode(engine: &SharedEngine, count: usize, sampling: &SamplingParams) -> (f64, EngineLoad, EngineLoad) {
    wait(engine.idle());
    let before = *engine.load().borrow();
    let begun = Instant::now();
    let request = |index: usize| GenerateRequest {
        sampling: sampling.clone(),
        ..generate(
            (0..PROMPT)
                .map(|at| ((at * 31 + index * 977) % 5000) as u32)
                .collect::<Vec<_>>(),
            TOKENS,
        )
    };
    let streams: Vec<_> = (0..count).map(|index| start(&**engine, request(index))).collect();
    for stream in streams {
        assert_eq!(collect(stream).tokens.len(), TOKENS);
    }
    let seconds = begun.elapsed().as_secs_f64();
    wait(engine.idle());
    (seconds, before, *engine.load().borrow())
}
