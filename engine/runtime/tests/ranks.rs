//! Engines whose model is split over several devices, which here are threads.

mod support;

use std::time::Duration;

use ferrum_engine::{EngineError, LaunchConfig, SubmitError, ValidRequest};
use ferrum_kernels::{
    BackendError,
    backend::KvLayout,
    cpu::{CpuBackend, CpuBuffer, CpuKvCache},
};
use ferrum_models::{BatchLimits, CausalLm, ForwardBatch};
use support::{
    checkpoints::{DENSE, assert_invariant, eight_requests, fixture, generator, start_decoder, start_ranks},
    requests::{PATIENCE, collect, generate, run, start, wait},
};

type CpuModel = Box<dyn CausalLm<CpuBackend>>;

fn cpus(count: usize) -> Vec<CpuBackend> {
    CpuBackend::ranks(count, 1, PATIENCE)
}

fn config() -> LaunchConfig {
    LaunchConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        ..LaunchConfig::new("test")
    }
}

#[test]
fn greedy_tokens_on_several_ranks_are_those_of_one() {
    let prompt: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 512).collect();
    for name in DENSE {
        let single = start_decoder(&fixture(name), &config(), 64);
        let expected = run(&*single, generate(prompt.clone(), 24)).tokens;
        for count in [2, 4] {
            let engine = start_ranks(cpus(count), &fixture(name), &config(), 64, |_, model| model);
            let tokens = run(&*engine, generate(prompt.clone(), 24)).tokens;
            assert_eq!(tokens, expected, "{name} on {count} ranks");
        }
    }
}

#[test]
fn on_two_ranks_too_company_chunks_and_a_warm_cache_change_no_token() {
    let requests = eight_requests(512, 70, 24);
    assert_invariant(
        |config| start_ranks(cpus(2), &fixture("tiny-qwen3"), config, 256, |_, model| model),
        &requests,
    );
}

/// Computes what `model` does for some steps, and then ends as `end` says.
struct Ending {
    model: CpuModel,
    steps: usize,
    end: fn() -> Result<(), BackendError>,
}

impl CausalLm<CpuBackend> for Ending {
    fn limits(&self) -> BatchLimits {
        self.model.limits()
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_model_len(&self) -> usize {
        self.model.max_model_len()
    }

    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout {
        self.model.kv_layout(block_size, num_blocks)
    }

    fn forward(
        &mut self,
        backend: &CpuBackend,
        batch: &ForwardBatch<CpuBackend>,
        cache: &mut CpuKvCache,
    ) -> Result<&CpuBuffer, BackendError> {
        if self.steps == 0 {
            (self.end)()?;
        }
        self.steps = self.steps.saturating_sub(1);
        self.model.forward(backend, batch, cache)
    }

    fn logits(&self) -> &CpuBuffer {
        self.model.logits()
    }
}

/// What a client hears of an engine of which rank `ending` ends so in its sixth step, and what it says from then on. It may
/// have been asked for that step before its client has the token of the one before.
fn failure_of(ahead: bool, ending: usize, end: fn() -> Result<(), BackendError>) -> String {
    let change = |rank, model| -> CpuModel {
        match rank == ending {
            true => Box::new(Ending { model, steps: 5, end }),
            false => model,
        }
    };
    let (generator, card) = generator(cpus(2), &fixture("tiny-llama"), &config(), 64, change);
    let engine = generator
        .running_ahead(ahead)
        .spawn(card, &config())
        .expect("a thread");
    let outcome = collect(start(&*engine, generate([1, 2, 3], 100)));
    assert!((5 - usize::from(ahead)..=5).contains(&outcome.tokens.len()));
    let Some(EngineError::Fatal(told)) = outcome.failed else {
        panic!("the request should have failed: {outcome:?}");
    };
    let mut failure = engine.failure();
    let said = wait(async move {
        failure
            .wait_for(Option::is_some)
            .await
            .map(|reason| reason.clone())
    });
    assert_eq!(said.expect("an engine").as_deref(), Some(&*told));
    let refused = engine.submit(ValidRequest::Generate(generate([1], 1)));
    assert!(matches!(refused, Err(SubmitError::Failed(_))));
    told
}

fn lost() -> Result<(), BackendError> {
    Err(BackendError::Device {
        device: "cpu",
        what: "the device is lost".to_owned(),
    })
}

#[test]
fn a_rank_that_fails_takes_the_engine_down_with_its_reason() {
    for ahead in [false, true] {
        for rank in [0, 1] {
            let told = failure_of(ahead, rank, lost);
            assert!(
                told.contains(&format!("rank {rank}: cpu: the device is lost")),
                "{told}"
            );
        }
    }
}

#[test]
fn a_rank_that_panics_takes_the_engine_down_with_its_message() {
    for ahead in [false, true] {
        let told = failure_of(ahead, 1, || panic!("out of luck"));
        assert!(told.contains("rank 1: cpu: out of luck"), "{told}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_waited_for_no_longer_than_allowed() {
    let backends = CpuBackend::ranks(2, 1, Duration::from_millis(200));
    let hang = || {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    };
    let change = |rank, model| -> CpuModel {
        match rank {
            1 => Box::new(Ending {
                model,
                steps: 0,
                end: hang,
            }),
            _ => model,
        }
    };
    let engine = start_ranks(backends, &fixture("tiny-llama"), &config(), 64, change);
    let outcome = collect(start(&*engine, generate([1, 2, 3], 100)));
    let Some(EngineError::Fatal(told)) = outcome.failed else {
        panic!("the request should have failed: {outcome:?}");
    };
    assert!(told.contains("rank 0 has waited 200ms for another"), "{told}");
}
