//! The engine as a server sees it, over a decoder that is a hash function.

mod support;

use std::sync::mpsc;

use ferrum_engine::{
    EngineError, Event, FinishReason, KvEvent, LaunchConfig, SamplingParams, SubmitError, Task, ValidRequest,
};
use ferrum_kernels::BackendError;
use support::{
    BeforeStep, Mock, config,
    requests::{Outcome, PATIENCE, collect, embed, generate, run, start, wait},
};

/// The tokens of a greedy request that runs alone.
fn alone(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(support::next_token(&tokens));
    }
    tokens.split_off(prompt.len())
}

/// A decoder that makes a step only when told to.
fn stepwise(config: &LaunchConfig, num_blocks: usize) -> (Mock, mpsc::Sender<()>) {
    let (permit, permits) = mpsc::channel();
    let before_step: BeforeStep = Box::new(move |_| {
        // The sender's end means: run freely.
        let waited = permits.recv_timeout(PATIENCE);
        assert_ne!(waited, Err(mpsc::RecvTimeoutError::Timeout), "no permit came");
        Ok(())
    });
    (Mock::start(config, num_blocks, before_step), permit)
}

/// Waits until the model was asked for `count` steps.
fn await_steps(mock: &Mock, count: usize) {
    wait(async {
        while mock.steps().len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

fn await_first_token(stream: &mut ferrum_engine::EventStream) {
    assert!(matches!(wait(stream.next()), Some(Event::Started { .. })));
    assert!(matches!(wait(stream.next()), Some(Event::Token { .. })));
}

#[test]
fn a_request_brings_its_tokens_and_its_usage() {
    let mock = Mock::free();
    let outcome = run(&*mock.engine, generate([1, 2, 3], 5));
    assert_eq!(outcome.tokens, alone(&[1, 2, 3], 5));
    let (reason, usage) = outcome.finished.expect("finished");
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(
        (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
        (3, 0, 5)
    );
}

#[test]
fn a_stop_token_is_reported_and_ends_the_request() {
    let mock = Mock::free();
    let all = alone(&[7], 20);
    let stop = all[4];
    let first = all.iter().position(|&token| token == stop).expect("it is there");
    let outcome = run(
        &*mock.engine,
        ferrum_engine::GenerateRequest {
            stop_token_ids: vec![stop],
            ..generate([7], 20)
        },
    );
    assert_eq!(outcome.tokens, all[..=first]);
    assert_eq!(
        outcome.finished.map(|(reason, _)| reason),
        Some(FinishReason::Stop)
    );
}

#[test]
fn company_chunks_and_a_warm_cache_change_no_token() {
    let prompt: Vec<u32> = (0..90).map(|at| at % 13).collect();
    let seeded = SamplingParams {
        temperature: 0.7,
        seed: 11,
        ..SamplingParams::default()
    };
    for sampling in [SamplingParams::default(), seeded] {
        let request = || ferrum_engine::GenerateRequest {
            sampling: sampling.clone(),
            ..generate(prompt.clone(), 20)
        };
        let expected = run(&*Mock::free().engine, request()).tokens;
        for (max_num_seqs, max_num_batched_tokens) in [(1, 1), (8, 9), (8, 16), (8, 512)] {
            let config = LaunchConfig {
                max_num_seqs,
                max_num_batched_tokens,
                ..config()
            };
            let mock = Mock::start(&config, 80, Box::new(|_| Ok(())));
            assert_eq!(run(&*mock.engine, request()).tokens, expected);
            let streams: Vec<_> = (0..8).map(|_| start(&*mock.engine, request())).collect();
            for stream in streams {
                let outcome = collect(stream);
                assert_eq!(outcome.tokens, expected);
                assert_eq!(outcome.started, Some(80));
                assert_eq!(
                    outcome.finished.expect("finished").1.cached_tokens,
                    80,
                    "all but the last block"
                );
            }
        }
    }
}

#[test]
fn log_probabilities_come_with_each_token_when_asked_for() {
    let mock = Mock::free();
    let sampling = SamplingParams {
        logprobs: Some(2),
        ..SamplingParams::default()
    };
    let outcome = run(
        &*mock.engine,
        ferrum_engine::GenerateRequest {
            sampling,
            ..generate([5], 3)
        },
    );
    assert_eq!(outcome.logprobs.len(), 3);
    assert_eq!(outcome.logprobs[0].top.len(), 2);
    assert_eq!(
        outcome.logprobs[0].top[0],
        (outcome.tokens[0], outcome.logprobs[0].logprob)
    );
}

#[test]
fn a_cancelled_request_is_gone_in_the_next_step() {
    let (mock, permit) = stepwise(&config(), 32);
    let mut first = start(&*mock.engine, generate([1], 30));
    permit.send(()).expect("the engine lives");
    await_first_token(&mut first);
    // The second step, of the first request alone, waits for its permit.
    await_steps(&mock, 2);
    let second = start(&*mock.engine, generate([2], 3));
    drop(first);
    drop(permit);
    assert_eq!(collect(second).tokens, alone(&[2], 3));
    wait(mock.engine.idle());
    assert_eq!(mock.steps(), [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
    await_free(&mock);
}

#[test]
fn a_request_that_is_cancelled_while_it_waits_never_runs() {
    let config = LaunchConfig {
        max_num_seqs: 1,
        ..config()
    };
    let (mock, permit) = stepwise(&config, 32);
    let first = start(&*mock.engine, generate([1], 4));
    await_steps(&mock, 1);
    let second = start(&*mock.engine, generate([2; 20], 4));
    let third = start(&*mock.engine, generate([3], 2));
    drop(second);
    drop(permit);
    assert_eq!(collect(first).tokens, alone(&[1], 4));
    assert_eq!(collect(third).tokens, alone(&[3], 2));
    assert_eq!(mock.steps().len(), 4 + 2);
}

#[test]
fn one_request_too_many_is_refused() {
    let config = LaunchConfig {
        max_num_seqs: 2,
        max_waiting: 1,
        ..config()
    };
    let (mock, permit) = stepwise(&config, 32);
    let mut streams: Vec<_> = (0..2).map(|id| start(&*mock.engine, generate([id], 9))).collect();
    // Not before both run, as what is on its way waits as well.
    for steps in 1.. {
        await_steps(&mock, steps);
        if mock.steps()[steps - 1].0 == 2 {
            break;
        }
        permit.send(()).expect("the engine lives");
    }
    streams.push(start(&*mock.engine, generate([3], 2)));
    let refused = mock.engine.submit(ValidRequest::Generate(generate([5], 2)));
    assert_eq!(
        refused.err(),
        Some(SubmitError::QueueFull { waiting: 1, limit: 1 })
    );
    drop(permit);
    assert!(
        streams
            .into_iter()
            .all(|stream| collect(stream).finished.is_some())
    );
    wait(mock.engine.idle());
    run(&*mock.engine, generate([5], 2));
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let mock = Mock::start(&config(), 4, Box::new(|_| Ok(())));
    let large = mock
        .engine
        .submit(ValidRequest::Generate(generate(vec![1; 60], 6)));
    assert_eq!(large.err(), Some(SubmitError::TooLarge { needed: 5, total: 4 }));
    run(&*mock.engine, generate(vec![1; 60], 5));
    let other = mock.engine.submit(embed([1]));
    assert_eq!(other.err(), Some(SubmitError::WrongTask { task: Task::Chat }));
    let empty = run(&*mock.engine, generate([], 5));
    assert_eq!(
        empty.finished.map(|(reason, _)| reason),
        Some(FinishReason::Length)
    );
}

#[test]
fn a_draining_engine_takes_nothing_and_finishes_what_it_has() {
    let config = LaunchConfig {
        max_num_seqs: 1,
        ..config()
    };
    let (mock, permit) = stepwise(&config, 32);
    let streams = [
        start(&*mock.engine, generate([1], 4)),
        start(&*mock.engine, generate([2], 4)),
    ];
    await_steps(&mock, 1);
    mock.engine.drain();
    mock.engine.drain();
    let refused = mock.engine.submit(ValidRequest::Generate(generate([5], 2)));
    assert_eq!(refused.err(), Some(SubmitError::Draining));
    drop(permit);
    wait(mock.engine.idle());
    for stream in streams {
        assert_eq!(collect(stream).tokens.len(), 4);
    }
}

#[test]
fn what_was_submitted_ends_even_if_the_engine_is_dropped() {
    let mock = Mock::free();
    let stream = start(&*mock.engine, generate([1], 20));
    drop(mock);
    assert_eq!(collect(stream).tokens, alone(&[1], 20));
}

/// One request runs and one waits when the second step fails.
fn assert_fails(fail: fn() -> Result<(), BackendError>, message: &str) {
    let (both_submitted, wait_for_both) = mpsc::channel();
    let before_step: BeforeStep = Box::new(move |step| match step {
        0 => wait_for_both
            .recv_timeout(PATIENCE)
            .map_err(|_| BackendError::Shape("no permit".to_owned())),
        _ => fail(),
    });
    let config = LaunchConfig {
        max_num_seqs: 1,
        ..config()
    };
    let mock = Mock::start(&config, 32, before_step);
    let streams = [1, 2].map(|id| start(&*mock.engine, generate([id], 9)));
    both_submitted.send(()).expect("the engine lives");
    for stream in streams {
        let Outcome { failed, finished, .. } = collect(stream);
        assert_eq!(failed, Some(EngineError::Fatal(message.to_owned())));
        assert_eq!(finished, None);
    }
    assert_eq!(mock.engine.failure().borrow().as_deref(), Some(message));
    let refused = mock.engine.submit(ValidRequest::Generate(generate([3], 1)));
    assert_eq!(refused.err(), Some(SubmitError::Failed(message.to_owned())));
    wait(mock.engine.idle());
}

#[test]
fn an_error_in_a_step_ends_all_requests_and_the_engine() {
    assert_fails(
        || Err(BackendError::Shape("test".to_owned())),
        "shape mismatch: test",
    );
}

#[test]
fn a_panic_in_a_step_ends_all_requests_and_the_engine() {
    assert_fails(|| panic!("on purpose"), "on purpose");
}

#[test]
fn cache_events_are_broadcast() {
    let mock = Mock::free();
    let mut events = mock.engine.kv_events();
    run(&*mock.engine, generate(vec![9; 20], 1));
    match wait(events.recv()) {
        Ok(KvEvent::Stored {
            parent: None, tokens, ..
        }) => assert_eq!(tokens, [9; 16]),
        other => panic!("{other:?}"),
    }
}

/// Waits until the load says that all blocks are free.
fn await_free(mock: &Mock) {
    let mut load = mock.engine.load();
    let idle = wait(async {
        let free = load.wait_for(|load| load.running_requests == 0 && load.free_blocks == load.total_blocks);
        *free.await.expect("the engine lives")
    });
    assert_eq!(idle.waiting_requests, 0);
}

#[test]
fn the_load_counts_what_was_done() {
    let mock = Mock::free();
    for _ in 0..2 {
        run(&*mock.engine, generate(vec![4; 40], 5));
    }
    wait(mock.engine.idle());
    await_free(&mock);
    let load = *mock.engine.load().borrow();
    assert_eq!((load.prompt_tokens_total, load.cached_tokens_total), (80, 32));
    assert_eq!(load.generated_tokens_total, 10);
    assert_eq!(load.steps_total, mock.steps().len() as u64);
    assert!(load.prefill_tokens_per_second > 0.0 && load.decode_tokens_per_second > 0.0);
    assert_eq!(
        (load.queued_prefill_tokens, load.free_blocks, load.total_blocks),
        (0, 32, 32)
    );
}

#[test]
fn a_thousand_requests_with_cancels_leave_no_block_behind() {
    let mock = Mock::start(
        &LaunchConfig {
            max_waiting: 2000,
            ..config()
        },
        20,
        Box::new(|_| Ok(())),
    );
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut live = Vec::new();
    for _ in 0..1000 {
        let prompt: Vec<u32> = (0..1 + random(60))
            .map(|at| (at / 20) as u32 + random(2) as u32)
            .collect();
        let max_tokens = 1 + random(30) as usize;
        live.push((
            prompt.clone(),
            max_tokens,
            start(&*mock.engine, generate(prompt, max_tokens)),
        ));
        match random(4) {
            0 => drop(live.swap_remove(random(live.len() as u64) as usize)),
            1 => {
                let (prompt, max_tokens, stream) = live.swap_remove(random(live.len() as u64) as usize);
                assert_eq!(collect(stream).tokens, alone(&prompt, max_tokens));
            }
            _ => {}
        }
    }
    for (prompt, max_tokens, stream) in live {
        assert_eq!(collect(stream).tokens, alone(&prompt, max_tokens));
    }
    wait(mock.engine.idle());
    await_free(&mock);
}
