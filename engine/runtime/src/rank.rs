//! One device's part of a step: on the runner's own thread, or on a thread that does what the runner is told.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use ferrum_kernels::{Backend, BackendError, backend::StepShape};
use ferrum_models::{BatchLimits, CausalLm, ForwardBatch};

use crate::{
    block_pool::{BLOCK_SIZE, blocks_for},
    engine::panic_message,
};

/// How long a device may take to be told a step, once the first has finished it. Devices wait less for one another.
const PATIENCE: Duration = Duration::from_secs(60);

/// Steps that a device may have been told before the first's outcome is asked for.
const MOST_UNDER_WAY: usize = 2;

/// A device and the part of the model that it has.
pub struct RankModel<B: Backend> {
    /// The device.
    pub backend: Arc<B>,
    /// Its part.
    pub model: Box<dyn CausalLm<B>>,
}

/// The inputs of a step, before they go to a device.
#[derive(Clone, Default)]
pub(crate) struct StepInputs {
    pub(crate) ids: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) slots: Vec<u32>,
    pub(crate) cu_seqlens_q: Vec<u32>,
    pub(crate) context_lens: Vec<u32>,
    pub(crate) block_tables: Vec<u32>,
    pub(crate) logit_rows: Vec<u32>,
    /// For each of the first rows, which draw of the step before is its id.
    pub(crate) sources: Vec<u32>,
}

/// A device's part of the model, its cache, and the buffers of a step, all allocated once.
pub(crate) struct RankRunner<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) model: Box<dyn CausalLm<B>>,
    cache: B::KvCache,
    inputs: ForwardBatch<B>,
    /// `(max_num_seqs)`: what the newest step draws.
    pub(crate) drawn: B::Indices,
    /// `(max_num_seqs)`: which of these are the tokens of the step after it.
    sources: B::Indices,
    /// Decode steps that the device plays back. They use the buffers above, which never move.
    recorded: B::Recorded,
}

impl<B: Backend> RankRunner<B> {
    pub(crate) fn new(
        RankModel { backend, model }: RankModel<B>,
        limits: BatchLimits,
        (num_blocks, max_model_len): (usize, usize),
    ) -> Result<Self, BackendError> {
        Ok(Self {
            cache: backend.alloc_kv_cache(&model.kv_layout(BLOCK_SIZE, num_blocks))?,
            inputs: ForwardBatch::alloc(&*backend, limits, blocks_for(max_model_len))?,
            drawn: backend.alloc_indices(limits.max_num_seqs)?,
            sources: backend.alloc_indices(limits.max_num_seqs)?,
            backend,
            model,
            recorded: B::Recorded::default(),
        })
    }

    /// Writes the inputs of a step to the device. A token that the host does not know yet comes from the newest step.
    pub(crate) fn prepare(&mut self, step: &StepInputs) -> Result<(), BackendError> {
        let inputs = &mut self.inputs;
        inputs.num_tokens = step.ids.len();
        inputs.num_seqs = step.context_lens.len();
        inputs.num_logit_rows = step.logit_rows.len();
        inputs.max_blocks = step.block_tables.len() / inputs.num_seqs.max(1);
        self.backend.write_all_indices(&mut [
            (&step.ids, &mut inputs.ids),
            (&step.positions, &mut inputs.positions),
            (&step.slots, &mut inputs.slots),
            (&step.cu_seqlens_q, &mut inputs.cu_seqlens_q),
            (&step.context_lens, &mut inputs.context_lens),
            (&step.block_tables, &mut inputs.block_tables),
            (&step.logit_rows, &mut inputs.logit_rows),
            (&step.sources, &mut self.sources),
        ])?;
        match step.sources.len() {
            0 => Ok(()),
            rows => self
                .backend
                .feed(&self.drawn, &self.sources, rows, &mut inputs.ids),
        }
    }

    /// The model's part of the step that was prepared.
    pub(crate) fn compute(&mut self) -> Result<(), BackendError> {
        let Self {
            backend,
            model,
            cache,
            inputs,
            recorded,
            ..
        } = self;
        let decodes_only = inputs.num_tokens == inputs.num_seqs && inputs.num_logit_rows == inputs.num_seqs;
        let shape = StepShape {
            num_seqs: inputs.num_seqs,
            max_blocks: inputs.max_blocks,
        };
        let mut launch = || model.forward(&**backend, inputs, cache).map(drop);
        match decodes_only {
            true => backend.run_recorded(recorded, shape, &mut launch),
            false => launch(),
        }
    }

    /// What the first device has drawn in this step, on each.
    pub(crate) fn share_drawn(&mut self) -> Result<(), BackendError> {
        match self.inputs.num_logit_rows {
            0 => Ok(()),
            count => self.backend.share_indices(&mut self.drawn, count),
        }
    }
}

/// A device beside the first, on a thread of its own.
pub(crate) struct Follower {
    rank: usize,
    device: &'static str,
    steps: Option<mpsc::SyncSender<Arc<StepInputs>>>,
    outcomes: mpsc::Receiver<Result<(), BackendError>>,
    /// None once it has not answered.
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn spawn<B: Backend>(runner: RankRunner<B>) -> Result<Self, BackendError> {
        let (rank, device) = (runner.backend.rank().index, runner.backend.device_name());
        let (steps, to_do) = mpsc::sync_channel(MOST_UNDER_WAY);
        let (done, outcomes) = mpsc::sync_channel(MOST_UNDER_WAY);
        let thread = thread::Builder::new()
            .name(format!("rank {rank}"))
            .spawn(move || follow(runner, &to_do, &done));
        Ok(Self {
            rank,
            device,
            steps: Some(steps),
            outcomes,
            thread: Some(
                thread.map_err(|error| failed(device, format!("no thread for rank {rank}: {error}")))?,
            ),
        })
    }

    /// Begins a step.
    pub(crate) fn begin(&self, step: Arc<StepInputs>) -> Result<(), BackendError> {
        let sent = self.steps.as_ref().map(|steps| steps.try_send(step).is_ok());
        if sent == Some(true) {
            return Ok(());
        }
        // It has ended, with a step that nobody has asked about yet.
        let reason = self.outcomes.try_iter().find_map(Result::err);
        Err(failed(
            self.device,
            match reason {
                Some(error) => format!("rank {}: {error}", self.rank),
                None => format!("rank {} is gone", self.rank),
            },
        ))
    }

    /// What came of the oldest step that was begun.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        let what = match self.outcomes.recv_timeout(PATIENCE) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => {
                self.thread = None;
                format!("no answer within {PATIENCE:?}: {error}")
            }
        };
        Err(failed(self.device, format!("rank {}: {what}", self.rank)))
    }
}

impl Drop for Follower {
    /// Waits for the thread, which gives back the device's memory, and so waits for its steps.
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn failed(device: &'static str, what: String) -> BackendError {
    BackendError::Device { device, what }
}

fn follow<B: Backend>(
    mut runner: RankRunner<B>,
    steps: &mpsc::Receiver<Arc<StepInputs>>,
    outcomes: &mpsc::SyncSender<Result<(), BackendError>>,
) {
    for step in steps {
        let computed = catch_unwind(AssertUnwindSafe(|| {
            runner.prepare(&step)?;
            runner.compute()?;
            runner.share_drawn()
        }));
        drop(step);
        let device = runner.backend.device_name();
        let outcome = computed.unwrap_or_else(|panic| Err(failed(device, panic_message(&*panic))));
        let ended = outcome.is_err();
        if ended {
            // Others wait for what will not come.
            runner.backend.leave();
        }
        if outcomes.send(outcome).is_err() || ended {
            return;
        }
    }
}
