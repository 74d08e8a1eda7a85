//! Engines on two GPUs that share a model: the tokens of one. Needs two GPUs that reach one another's memory.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrum_engine::{EngineError, LaunchConfig, SharedEngine};
use ferrum_kernels::{
    BackendError,
    backend::KvLayout,
    cuda::{CudaBackend, CudaBuffer, CudaKvCache, Element, Link},
};
use ferrum_models::{BatchLimits, CausalLm, ForwardBatch};
use support::{
    checkpoints::{
        DENSE, GPTQ, assert_cancels_leave_no_block_behind, assert_free, eight_requests, fixture, start_ranks,
        without_penalties,
    },
    requests::{collect, generate, run, start},
};

/// One test at a time: kernels of GPUs that share a model wait for one another, and what another test does beside them (giving
/// back a device waits for all of its kernels, and recordings for that) could keep the second from being asked for.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Columns in an order of their own cannot be cut yet.
fn decoders() -> impl Iterator<Item = &'static str> {
    DENSE
        .into_iter()
        .chain(GPTQ.into_iter().filter(|name| !name.contains("descact")))
}

fn config() -> LaunchConfig {
    LaunchConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_waiting: 1000,
        ..LaunchConfig::new("test")
    }
}

fn start_gpus(name: &str, count: usize) -> SharedEngine {
    let backends = CudaBackend::ranks(count, Element::F32, Link::Best).expect("GPUs");
    start_ranks(backends, &fixture(name), &config(), 256, |_, model| model)
}

#[test]
fn two_gpus_give_the_tokens_of_one() {
    let _alone = alone();
    for name in decoders() {
        let (single, both) = (start_gpus(name, 1), start_gpus(name, 2));
        let mixed = eight_requests(512, 70, 24);
        // Without penalties each step is asked for before the one before it has brought its tokens.
        let free = without_penalties(&mixed);
        for requests in [mixed, free] {
            let expected: Vec<Vec<u32>> = requests
                .iter()
                .map(|request| run(&*single, request.clone()).tokens)
                .collect();
            // One by one, then all at once.
            for (request, expected) in requests.iter().zip(&expected) {
                assert_eq!(&run(&*both, request.clone()).tokens, expected, "{name}");
            }
            let streams: Vec<_> = requests
                .iter()
                .map(|request| start(&*both, request.clone()))
                .collect();
            for (stream, expected) in streams.into_iter().zip(&expected) {
                assert_eq!(&collect(stream).tokens, expected, "{name}, in a batch");
            }
            assert_free(&both);
        }
    }
}

#[test]
fn a_thousand_requests_with_cancels_leave_no_block_behind_on_two_gpus() {
    let _alone = alone();
    assert_cancels_leave_no_block_behind(&start_gpus("tiny-llama", 2));
}

/// Fails in its fifth step, as a GPU that is lost does.
struct Lost(Box<dyn CausalLm<CudaBackend>>, usize);

impl CausalLm<CudaBackend> for Lost {
    fn limits(&self) -> BatchLimits {
        self.0.limits()
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn max_model_len(&self) -> usize {
        self.0.max_model_len()
    }

    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout {
        self.0.kv_layout(block_size, num_blocks)
    }

    fn forward(
        &mut self,
        backend: &CudaBackend,
        batch: &ForwardBatch<CudaBackend>,
        cache: &mut CudaKvCache,
    ) -> Result<&CudaBuffer, BackendError> {
        self.1 += 1;
        match self.1 {
            ..5 => self.0.forward(backend, batch, cache),
            _ => Err(BackendError::Device {
                device: "cuda",
                what: "the GPU is lost".to_owned(),
            }),
        }
    }

    fn logits(&self) -> &CudaBuffer {
        self.0.logits()
    }
}

#[test]
fn a_gpu_that_is_lost_takes_the_engine_down_with_its_reason() {
    let _alone = alone();
    for lost in [0, 1] {
        let backends = CudaBackend::ranks(2, Element::F32, Link::Best).expect("two GPUs");
        let change = |rank, model| -> Box<dyn CausalLm<CudaBackend>> {
            match rank == lost {
                true => Box::new(Lost(model, 0)),
                false => model,
            }
        };
        let engine = start_ranks(backends, &fixture("tiny-llama"), &config(), 64, change);
        // Prompts of several steps, so that none is recorded.
        let outcome = collect(start(&*engine, generate(vec![7; 500], 10)));
        let Some(EngineError::Fatal(told)) = outcome.failed else {
            panic!("the request should have failed: {outcome:?}");
        };
        assert!(
            told.contains(&format!("rank {lost}: cuda: the GPU is lost")),
            "{told}"
        );
    }
}
