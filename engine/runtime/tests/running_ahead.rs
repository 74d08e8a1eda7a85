//! Engines that ask for a step before the one before it has brought its tokens: the tokens of those that do not.

mod support;

use std::sync::Arc;

use ferrum_engine::{Event, FinishReason, GenerateRequest, LaunchConfig, SamplingParams, SharedEngine};
use ferrum_kernels::cpu::CpuBackend;
use ferrum_runtime::Generator;
use support::{
    Mock,
    checkpoints::{
        DENSE, assert_free, assert_invariant, eight_requests, fixture, start_running, without_penalties,
    },
    config,
    requests::{Outcome, PATIENCE, collect, generate, run, start, wait},
};

fn mock(ahead: bool) -> Mock {
    Mock::start_running(ahead, &config(), 32, Box::new(|_| Ok(())))
}

/// What `requests` bring, all at once.
fn together(engine: &SharedEngine, requests: &[GenerateRequest]) -> Vec<Outcome> {
    let streams: Vec<_> = requests
        .iter()
        .map(|request| start(&**engine, request.clone()))
        .collect();
    let outcomes = streams.into_iter().map(collect).collect();
    assert_free(engine);
    outcomes
}

/// Requests that end by their length, and by a stop token that each of them draws.
fn requests() -> Vec<GenerateRequest> {
    let request = |id: u32| {
        let tokens = run(&*mock(false).engine, generate([id, 3], 12)).tokens;
        GenerateRequest {
            stop_token_ids: if id.is_multiple_of(2) {
                vec![tokens[7]]
            } else {
                Vec::new()
            },
            sampling: SamplingParams {
                temperature: if id.is_multiple_of(2) { 0.0 } else { 1.0 },
                seed: u64::from(id),
                ..SamplingParams::default()
            },
            ..generate([id, 3], 1 + id as usize)
        }
    };
    (0..24).map(request).collect()
}

#[test]
fn every_request_brings_what_it_brings_when_each_token_is_awaited() {
    let requests = requests();
    let (ahead, awaiting) = (mock(true), mock(false));
    for _ in ["cold", "warm"] {
        let expected: Vec<Outcome> = requests
            .iter()
            .map(|request| run(&*awaiting.engine, request.clone()))
            .collect();
        let stops = expected
            .iter()
            .filter(|outcome| outcome.finished.expect("finished").0 == FinishReason::Stop);
        assert!(stops.count() > 3);
        for (outcome, expected) in together(&ahead.engine, &requests).iter().zip(&expected) {
            assert_eq!(outcome.tokens, expected.tokens);
            let (reason, usage) = outcome.finished.expect("finished");
            let (expected_reason, expected_usage) = expected.finished.expect("finished");
            assert_eq!(reason, expected_reason);
            assert_eq!(usage.completion_tokens, expected_usage.completion_tokens);
        }
    }
}

#[test]
fn a_step_too_many_is_asked_for_only_after_a_stop_token() {
    let by_length = mock(true);
    run(&*by_length.engine, generate([5], 9));
    wait(by_length.engine.idle());
    assert_eq!(by_length.steps(), [(1, 1); 9]);

    let stop = by_length_tokens()[4];
    let by_stop = mock(true);
    let request = GenerateRequest {
        stop_token_ids: vec![stop],
        ..generate([5], 9)
    };
    let outcome = run(&*by_stop.engine, request);
    // Another request makes sure that the step too many has been asked for, if it ever is.
    run(&*by_stop.engine, generate([6], 1));
    wait(by_stop.engine.idle());
    assert_eq!(by_stop.steps().len(), outcome.tokens.len() + 1 + 1);
}

fn by_length_tokens() -> Vec<u32> {
    run(&*mock(false).engine, generate([5], 9)).tokens
}

#[test]
fn what_the_host_must_know_is_awaited() {
    let wanted = SamplingParams {
        logprobs: Some(1),
        ..SamplingParams::default()
    };
    let penalised = SamplingParams {
        frequency_penalty: 0.5,
        ..SamplingParams::default()
    };
    for sampling in [wanted, penalised] {
        let request = GenerateRequest {
            sampling,
            ..generate([9, 9], 12)
        };
        let (ahead, awaiting) = (mock(true), mock(false));
        let expected = run(&*awaiting.engine, request.clone());
        let company = [generate([4], 20), request, generate([6], 5)];
        let outcomes = together(&ahead.engine, &company);
        assert_eq!(outcomes[1].tokens, expected.tokens);
        assert_eq!(outcomes[1].logprobs, expected.logprobs);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_step_takes_nothing_from_the_others() {
    let mock = mock(true);
    let others = [generate([1, 2], 25), generate([3], 30)];
    let expected: Vec<_> = others
        .iter()
        .map(|request| run(&*mock.engine, request.clone()).tokens)
        .collect();
    for leave_after in 0..20 {
        let streams: Vec<_> = others
            .iter()
            .map(|request| start(&*mock.engine, request.clone()))
            .collect();
        let mut leaving = start(&*mock.engine, generate([leave_after as u32, 7, 7], 40));
        for _ in 0..leave_after {
            assert!(matches!(
                wait(leaving.next()),
                Some(Event::Started { .. } | Event::Token { .. })
            ));
        }
        drop(leaving);
        for (stream, expected) in streams.into_iter().zip(&expected) {
            assert_eq!(&collect(stream).tokens, expected);
        }
    }
    assert_free(&mock.engine);
}

#[test]
fn real_layers_give_the_tokens_of_an_engine_that_awaits_each() {
    for name in DENSE {
        // Of the eight, some are penalised and some not: both ways alternate. Then those alone that are not.
        let mixed = eight_requests(512, 70, 24);
        let free = without_penalties(&mixed);
        let config = LaunchConfig {
            max_num_seqs: 4,
            max_num_batched_tokens: 40,
            ..LaunchConfig::new("test")
        };
        let engine = |ahead| start_running(ahead, vec![CpuBackend::new(2)], &fixture(name), &config, 256);
        let (ahead, awaiting) = (engine(true), engine(false));
        for requests in [mixed, free] {
            let tokens = |outcomes: Vec<Outcome>| outcomes.into_iter().map(|outcome| outcome.tokens);
            let expected = tokens(together(&awaiting, &requests));
            assert!(tokens(together(&ahead, &requests)).eq(expected), "{name}");
        }
    }
}

#[test]
fn devices_that_share_a_model_get_the_tokens_that_the_first_has_drawn() {
    let config = LaunchConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 40,
        ..LaunchConfig::new("test")
    };
    for name in ["tiny-qwen3", "tiny-llama"] {
        let requests = without_penalties(&eight_requests(512, 70, 24));
        let engine = |ahead, count| {
            let ranks = CpuBackend::ranks(count, 1, PATIENCE);
            start_running(ahead, ranks, &fixture(name), &config, 256)
        };
        let tokens = |outcomes: Vec<Outcome>| outcomes.into_iter().map(|outcome| outcome.tokens);
        for count in [2, 4] {
            let expected = tokens(together(&engine(false, count), &requests));
            let ahead = engine(true, count);
            assert!(
                tokens(together(&ahead, &requests)).eq(expected),
                "{name} x {count}"
            );
        }
    }
}

#[test]
fn company_chunks_and_a_warm_cache_change_no_token() {
    let requests = eight_requests(512, 70, 24);
    assert_invariant(
        |config| {
            start_running(
                true,
                vec![CpuBackend::new(2)],
                &fixture("tiny-qwen3"),
                config,
                256,
            )
        },
        &requests,
    );
}

#[test]
fn an_engine_on_the_cpu_awaits_each_step() {
    let model = support::MockModel::new(&config(), Box::new(|_| Ok(())));
    let log = Arc::clone(&model.log);
    let backend = Arc::new(support::MockBackend);
    let generator = Generator::new(backend, Box::new(model), &config(), (32, support::MAX_MODEL_LEN));
    let card = support::card(ferrum_engine::Task::Chat, &config(), 32);
    let engine = generator
        .expect("memory")
        .spawn(card, &config())
        .expect("a thread");
    let stop = by_length_tokens()[4];
    let request = GenerateRequest {
        stop_token_ids: vec![stop],
        ..generate([5], 9)
    };
    let outcome = run(&*engine, request);
    wait(engine.idle());
    assert_eq!(log.lock().expect("a log").len(), outcome.tokens.len());
}
