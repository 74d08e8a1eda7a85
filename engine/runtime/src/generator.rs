//! The loop's part for decoders: sequences in, tokens out.

use std::{collections::HashMap, sync::Arc};

use ferrum_engine::{
    EngineError, EngineLoad, Event, FinishReason, GenerateRequest, KvEvent, LaunchConfig, ModelCard,
    SharedEngine, Usage, ValidRequest,
};
use ferrum_kernels::{Backend, BackendError};
use ferrum_models::{BatchLimits, CausalLm};
use tokio::sync::mpsc;

use crate::{
    engine::{self, Worker},
    handle::Submission,
    meter::StepCounts,
    model_runner::{Drawn, ModelRunner},
    rank::RankModel,
    scheduler::{ScheduledBatch, Scheduler, SchedulerConfig, Sequence, SequenceId},
};

/// Scheduler, model and clients of a generating engine.
pub struct Generator<B: Backend> {
    scheduler: Scheduler,
    runner: ModelRunner<B>,
    clients: HashMap<SequenceId, mpsc::UnboundedSender<Event>>,
    drawn: Drawn,
    next_id: SequenceId,
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
        Ok(Self {
            scheduler: Scheduler::new(SchedulerConfig::new(config, num_blocks)),
            runner: ModelRunner::new(ranks, limits, (num_blocks, max_model_len))?,
            clients: HashMap::new(),
            drawn: Drawn::default(),
            next_id: 0,
        })
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

    fn schedule(&mut self) -> ScheduledBatch {
        let batch = self.scheduler.schedule();
        let running = self.scheduler.running();
        for sequence in &running[running.len() - batch.num_admitted..] {
            let cached_tokens = sequence.usage().cached_tokens;
            if let Some(events) = self.clients.get(&sequence.id()) {
                let _ = events.send(Event::Started { cached_tokens });
            }
        }
        batch
    }

    fn prepare(&mut self, batch: &ScheduledBatch) -> Result<(), BackendError> {
        self.runner.prepare(batch, self.scheduler.running())
    }

    fn forward(&mut self, batch: &ScheduledBatch) -> Result<(), BackendError> {
        self.drawn = self.runner.forward(batch, self.scheduler.running())?;
        Ok(())
    }

    fn process(&mut self, batch: ScheduledBatch) -> StepCounts {
        let Drawn { tokens, logprobs } = std::mem::take(&mut self.drawn);
        let counts = StepCounts {
            prefill_tokens: batch.num_prefill_tokens,
            cached_tokens: batch.num_cached_tokens,
            decode_tokens: batch.num_decode_tokens(),
            generated_tokens: tokens.len(),
        };
        for (advance, logprob) in self.scheduler.commit(&batch, &tokens).into_iter().zip(logprobs) {
            let Some(events) = self.clients.get(&advance.id) else {
                continue;
            };
            // A client that has left is forgotten before the next step.
            let _ = events.send(Event::Token {
                id: advance.token,
                logprob,
            });
            if let Some((reason, usage)) = advance.finished {
                let _ = events.send(Event::Finished { reason, usage });
                self.clients.remove(&advance.id);
            }
        }
        counts
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
