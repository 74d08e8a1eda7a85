//! The loop's part for decoders: sequences in, tokens out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ferrum_engine::{
    DeviceMemory, EngineError, EngineLoad, Event, FinishReason, GenerateRequest, KvEvent, LaunchConfig,
    ModelCard, SharedEngine, Usage, ValidRequest,
};
use ferrum_kernels::{Backend, BackendError};
use ferrum_models::{BatchLimits, CausalLm};
use tokio::sync::mpsc;

use crate::{
    block_pool::BLOCK_SIZE,
    engine::{self, Worker},
    handle::Submission,
    meter::StepCounts,
    model_runner::{Drawn, ModelRunner},
    rank::RankModel,
    scheduler::{LaunchedBatch, ScheduledBatch, Scheduler, SchedulerConfig, Sequence, SequenceId},
};

/// Scheduler, model and clients of a generating engine.
pub struct Generator<B: Backend> {
    scheduler: Scheduler,
    runner: ModelRunner<B>,
    clients: HashMap<SequenceId, mpsc::UnboundedSender<Event>>,
    /// Steps that were asked for, the oldest first, and what they do.
    under_way: VecDeque<(LaunchedBatch, StepCounts)>,
    runs_ahead: bool,
    devices: Devices<B>,
    next_id: SequenceId,
}

/// The devices that share the model, and what of their memory is for what.
struct Devices<B: Backend> {
    backends: Vec<Arc<B>>,
    weights_bytes: u64,
    kv_cache_bytes: u64,
}

impl<B: Backend> Generator<B> {
    /// Allocates the cache and all buffers: `num_blocks` blocks, sequences of at most `max_model_len` tokens.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(
        backend: Arc<B>,
        model: Box<dyn CausalLm<B>>,
        config: &LaunchConfig,
        size: (usize, usize),
    ) -> Result<Self, BackendError> {
        Self::on_ranks(vec![RankModel { backend, model }], config, size)
    }

    /// As [`Self::new`], on the ranks that share a model, in their order.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Panics
    /// Without a rank.
    pub fn on_ranks(
        ranks: Vec<RankModel<B>>,
        config: &LaunchConfig,
        (num_blocks, max_model_len): (usize, usize),
    ) -> Result<Self, BackendError> {
        let limits = BatchLimits {
            max_num_batched_tokens: config.max_num_batched_tokens,
            max_num_seqs: config.max_num_seqs,
        };
        let devices = Devices::of(&ranks, num_blocks);
        let runner = ModelRunner::new(ranks, limits, (num_blocks, max_model_len))?;
        Ok(Self {
            scheduler: Scheduler::new(SchedulerConfig::new(config, num_blocks)),
            runs_ahead: runner.runs_ahead(),
            runner,
            clients: HashMap::new(),
            under_way: VecDeque::new(),
            devices,
            next_id: 0,
        })
    }

    /// As it is, but asking for a step before the one before it has brought its tokens, or never so. Where the device
    /// computes beside the host, the former is the default; the tokens are the same.
    #[must_use]
    pub fn running_ahead(self, runs_ahead: bool) -> Self {
        Self { runs_ahead, ..self }
    }

    /// Makes two real tokens, one after a prompt and one after a token, before anybody waits for them.
    ///
    /// # Errors
    /// What the model or the device reports.
    pub fn warm_up(&mut self) -> Result<(), BackendError> {
        let (events, stream) = ferrum_engine::channel();
        let request = GenerateRequest {
            id: "warm-up".to_owned(),
            prompt: vec![0],
            max_tokens: 2,
            sampling: Default::default(),
            stop_token_ids: Vec::new(),
        };
        self.receive(Submission {
            request: ValidRequest::Generate(request),
            events,
        });
        while self.occupancy() != (0, 0) {
            engine::step(self)?;
        }
        drop(stream);
        Ok(())
    }

    /// Starts the loop.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(self, card: ModelCard, config: &LaunchConfig) -> std::io::Result<SharedEngine> {
        engine::spawn(self, card, config)
    }
}

impl<B: Backend> Worker for Generator<B> {
    type Batch = ScheduledBatch;

    fn receive(&mut self, Submission { request, events }: Submission) {
        let ValidRequest::Generate(request) = request else {
            unreachable!("the handle refuses another task's requests");
        };
        if request.prompt.is_empty() || request.max_tokens == 0 {
            // There is no token to draw, or nothing to draw it from.
            let usage = Usage {
                prompt_tokens: request.prompt.len(),
                ..Usage::default()
            };
            let _ = events.send(Event::Started { cached_tokens: 0 });
            let _ = events.send(Event::Finished {
                reason: FinishReason::Length,
                usage,
            });
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        match self.scheduler.submit(Sequence::new(id, request)) {
            Ok(()) => drop(self.clients.insert(id, events)),
            Err(never_fits) => {
                let _ = events.send(Event::Failed(EngineError::Fatal(never_fits.to_string())));
            }
        }
    }

    fn forget_cancelled(&mut self) {
        let scheduler = &mut self.scheduler;
        self.clients.retain(|&id, events| {
            let gone = events.is_closed();
            if gone {
                scheduler.cancel(id);
            }
            !gone
        });
    }

    fn schedule(&mut self) -> Option<ScheduledBatch> {
        let batch = self.scheduler.schedule();
        let running = self.scheduler.running();
        for sequence in &running[running.len() - batch.num_admitted..] {
            let cached_tokens = sequence.usage().cached_tokens;
            if let Some(events) = self.clients.get(&sequence.id()) {
                let _ = events.send(Event::Started { cached_tokens });
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn prepare(&mut self, batch: &ScheduledBatch) -> Result<(), BackendError> {
        self.runner.prepare(batch, self.scheduler.running())
    }

    fn forward(&mut self, batch: ScheduledBatch) -> Result<(), BackendError> {
        self.runner.forward(&batch, self.scheduler.running())?;
        let counts = StepCounts {
            prefill_tokens: batch.num_prefill_tokens,
            cached_tokens: batch.num_cached_tokens,
            decode_tokens: batch.num_decode_tokens(),
            generated_tokens: 0,
        };
        self.under_way.push_back((self.scheduler.launch(&batch), counts));
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn runs_ahead(&self) -> bool {
        self.runs_ahead && self.scheduler.running().iter().all(Sequence::runs_ahead)
    }

    fn process(&mut self) -> Result<(StepCounts, Duration), BackendError> {
        let Drawn {
            tokens,
            mut logprobs,
            device_time,
        } = self.runner.finish()?;
        let (batch, mut counts) = self.under_way.pop_front().expect("a step is under way");
        for advance in self.scheduler.settle(&batch, &tokens) {
            counts.generated_tokens += 1;
            let Some(events) = self.clients.get(&advance.id) else {
                continue;
            };
            // A client that has left is forgotten before the next step.
            let _ = events.send(Event::Token {
                id: advance.token,
                logprob: logprobs[advance.draw].take(),
            });
            if let Some((reason, usage)) = advance.finished {
                let _ = events.send(Event::Finished { reason, usage });
                self.clients.remove(&advance.id);
            }
        }
        Ok((counts, device_time))
    }

    fn occupancy(&self) -> (usize, usize) {
        (self.scheduler.num_waiting(), self.scheduler.running().len())
    }

    fn load(&self) -> EngineLoad {
        let pool = self.scheduler.kv().pool();
        EngineLoad {
            waiting_requests: self.scheduler.num_waiting(),
            running_requests: self.scheduler.running().len(),
            queued_prefill_tokens: self.scheduler.queued_prefill_tokens(),
            free_blocks: pool.num_available(),
            total_blocks: pool.num_blocks(),
            memory: self.devices.memory(),
            ..EngineLoad::default()
        }
    }

    fn take_events(&mut self) -> Vec<KvEvent> {
        self.scheduler.take_events()
    }

    fn fail(&mut self, error: &EngineError) {
        for (_, events) in self.clients.drain() {
            let _ = events.send(Event::Failed(error.clone()));
        }
    }
}

impl<B: Backend> Devices<B> {
    /// Before their caches are allocated.
    fn of(ranks: &[RankModel<B>], num_blocks: usize) -> Self {
        let cache_bytes =
            |rank: &RankModel<B>| rank.model.kv_layout(BLOCK_SIZE, num_blocks).block_bytes() * num_blocks;
        Self {
            weights_bytes: ranks
                .iter()
                .map(|rank| rank.backend.allocated_bytes() as u64)
                .sum(),
            kv_cache_bytes: ranks.iter().map(|rank| cache_bytes(rank) as u64).sum(),
            backends: ranks.iter().map(|rank| Arc::clone(&rank.backend)).collect(),
        }
    }

    /// `None` if they compute in the host's.
    fn memory(&self) -> Option<DeviceMemory> {
        let sum = |bytes: fn(&B) -> Option<u64>| -> Option<u64> {
            self.backends.iter().map(|backend| bytes(backend)).sum()
        };
        Some(DeviceMemory {
            total_bytes: sum(B::total_bytes)?,
            free_bytes: sum(B::free_bytes)?,
            weights_bytes: self.weights_bytes,
            kv_cache_bytes: self.kv_cache_bytes,
        })
    }
}
