//! From a [`ScheduledBatch`] to the tokens drawn.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ferrum_engine::TokenLogprob;
use ferrum_kernels::{
    Backend, BackendError,
    ops::{KNOWN, SampleRow},
};
use ferrum_models::BatchLimits;

use crate::{
    block_pool::blocks_for,
    rank::{Follower, RankModel, RankRunner, StepInputs},
    sampler::sample_row,
    scheduler::{ScheduledBatch, Sequence},
};

/// A decoder on one device, or on several that share it: they get the same steps, and the first draws the tokens.
pub struct ModelRunner<B: Backend> {
    /// Dropped before the first, whose logits they write.
    followers: Vec<Follower>,
    first: RankRunner<B>,
    step: Arc<StepInputs>,
    /// Most blocks of a sequence.
    max_blocks: usize,
    /// Steps that were asked for, the oldest first.
    under_way: VecDeque<UnderWay<B>>,
    /// For those to come.
    spare: Vec<B::Step>,
}

/// A step that was asked for.
struct UnderWay<B: Backend> {
    step: B::Step,
    /// How many log probabilities are wanted beside each draw.
    logprobs: Vec<Option<u8>>,
}

/// What a step has drawn, one entry for each row that samples, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Log probabilities, where asked for.
    pub logprobs: Vec<Option<TokenLogprob>>,
    /// How long the device took.
    pub device_time: Duration,
}

impl<B: Backend> ModelRunner<B> {
    /// Allocates a cache of `num_blocks` blocks and the buffers for steps within `limits`, with sequences of at
    /// most `max_model_len` tokens, on each rank.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], or if the system gives no thread for a rank.
    ///
    /// # Panics
    /// Without a rank.
    pub fn new(
        ranks: Vec<RankModel<B>>,
        limits: BatchLimits,
        (num_blocks, max_model_len): (usize, usize),
    ) -> Result<Self, BackendError> {
        let mut runners = ranks
            .into_iter()
            .map(|rank| RankRunner::new(rank, limits, (num_blocks, max_model_len)))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let first = runners.next().expect("a model has at least one rank");
        Ok(Self {
            under_way: VecDeque::new(),
            spare: Vec::new(),
            followers: runners.map(Follower::spawn).collect::<Result<_, _>>()?,
            first,
            step: Arc::default(),
            max_blocks: blocks_for(max_model_len),
        })
    }

    /// Whether it pays to ask for a step before the one before it has brought its tokens.
    pub fn runs_ahead(&self) -> bool {
        self.first.backend.runs_beside_host()
    }

    /// Writes the inputs of `batch` to the devices; `sequences` are the scheduler's running ones. Followers begin.
    ///
    /// # Errors
    /// What the device reports.
    pub fn prepare(&mut self, batch: &ScheduledBatch, sequences: &[Sequence]) -> Result<(), BackendError> {
        Arc::make_mut(&mut self.step).gather(batch, sequences, self.max_blocks);
        let begun = self
            .followers
            .iter()
            .try_for_each(|follower| follower.begin(Arc::clone(&self.step)));
        let prepared = begun.and_then(|()| self.first.prepare(&self.step));
        if prepared.is_err() {
            self.first.backend.leave();
        }
        prepared
    }

    /// Asks for the step that was prepared, and for a token for each of `batch`'s rows that samples. Log probabilities
    /// are had only if no other step is asked for before [`Self::finish`].
    ///
    /// # Errors
    /// What the model or a device reports.
    pub fn forward(&mut self, batch: &ScheduledBatch, sequences: &[Sequence]) -> Result<(), BackendError> {
        let asked = self.compute_and_draw(batch, sequences);
        match asked {
            Ok(step) => {
                self.under_way.push_back(step);
                Ok(())
            }
            Err(error) => self.with_followers(Err(error)),
        }
    }

    /// Waits for the oldest step that was asked for.
    ///
    /// # Errors
    /// What the model or a device reports.
    ///
    /// # Panics
    /// If none was asked for.
    pub fn finish(&mut self) -> Result<Drawn, BackendError> {
        let UnderWay { mut step, logprobs } = self.under_way.pop_front().expect("a step is under way");
        let drawn = self.read(&mut step, &logprobs);
        self.spare.push(step);
        self.with_followers(drawn)
    }

    /// What came of a step on the first device, and on the others.
    fn with_followers<T>(&mut self, outcome: Result<T, BackendError>) -> Result<T, BackendError> {
        let mut steps = 1;
        if outcome.is_err() {
            // Others would wait for what will not come. The reason may be that of a later step.
            self.first.backend.leave();
            steps += self.under_way.len();
        }
        let finish = |follower: &mut Follower| (0..steps).try_for_each(|_| follower.finish());
        let finished: Result<Vec<()>, _> = self.followers.iter_mut().map(finish).collect();
        match (outcome, finished) {
            (Ok(outcome), Ok(_)) => Ok(outcome),
            (Ok(_), Err(error)) => Err(error),
            (Err(error), _) if self.followers.is_empty() => Err(error),
            // If others failed too, one is the reason of the rest.
            (Err(first), others) => Err(BackendError::Device {
                device: self.first.backend.device_name(),
                what: match others {
                    Ok(_) => format!("rank 0: {first}"),
                    Err(other) => format!("rank 0: {first}; {other}"),
                },
            }),
        }
    }

    fn compute_and_draw(
        &mut self,
        batch: &ScheduledBatch,
        sequences: &[Sequence],
    ) -> Result<UnderWay<B>, BackendError> {
        let mut step = self.spare.pop().unwrap_or_default();
        self.first.backend.begin_step(&mut step)?;
        self.first.compute()?;
        let RankRunner {
            backend,
            model,
            drawn,
            ..
        } = &mut self.first;
        let sampled: Vec<&Sequence> = batch
            .rows
            .iter()
            .filter(|row| row.samples)
            .map(|row| &sequences[row.index])
            .collect();
        if !sampled.is_empty() {
            let rows: Vec<SampleRow<'_>> = sampled.iter().map(|sequence| sample_row(sequence)).collect();
            backend.sample(model.logits(), model.vocab_size(), &rows, drawn)?;
        }
        self.first.share_drawn()?;
        self.first
            .backend
            .end_step(&mut step, &self.first.drawn, sampled.len())?;
        let wanted = sampled.iter().map(|sequence| sequence.sampling().logprobs);
        Ok(UnderWay {
            step,
            logprobs: wanted.collect(),
        })
    }

    fn read(&self, step: &mut B::Step, logprobs: &[Option<u8>]) -> Result<Drawn, BackendError> {
        let RankRunner { backend, model, .. } = &self.first;
        let mut tokens = Vec::with_capacity(logprobs.len());
        let device_time = backend.finish_step(step, &mut tokens)?;
        let of_row = |(row, (wanted, &token)): (usize, (&Option<u8>, &u32))| {
            let Some(top) = *wanted else { return Ok(None) };
            let found = backend.logprobs(model.logits(), model.vocab_size(), row, token, usize::from(top))?;
            Ok(Some(TokenLogprob {
                logprob: found.chosen,
                top: found.top,
            }))
        };
        let rows = logprobs.iter().zip(&tokens).enumerate();
        let logprobs = rows.map(of_row).collect::<Result<_, BackendError>>()?;
        Ok(Drawn {
            tokens,
            logprobs,
            device_time,
        })
    }
}

impl StepInputs {
    fn gather(&mut self, batch: &ScheduledBatch, sequences: &[Sequence], max_blocks: usize) {
        let Self {
            ids,
            positions,
            slots,
            cu_seqlens_q,
            context_lens,
            block_tables,
            logit_rows,
            sources,
        } = self;
        for list in [
            &mut *ids,
            positions,
            slots,
            &mut *cu_seqlens_q,
            context_lens,
            &mut *block_tables,
            logit_rows,
            &mut *sources,
        ] {
            list.clear();
        }
        let blocks = |index: usize| sequences[index].table().blocks();
        let stride = batch
            .rows
            .iter()
            .map(|row| blocks(row.index).len())
            .max()
            .unwrap_or(0);
        // Few strides, so that few steps differ in their shape; a table has room for the longest sequence.
        let stride = stride.next_power_of_two().min(max_blocks).max(stride);
        cu_seqlens_q.push(0);
        for row in &batch.rows {
            let sequence = &sequences[row.index];
            let range = row.start..row.start + row.num_tokens;
            ids.extend_from_slice(&sequence.tokens()[range.clone()]);
            if let Some(draw) = sequence.pending() {
                // Only the last token is not known, and one that has been drawn comes before all prompts.
                sources.resize(ids.len() - 1, KNOWN);
                sources.push(index_of(draw));
            }
            positions.extend(range.clone().map(index_of));
            slots.extend(range.clone().map(|position| sequence.table().slot(position)));
            cu_seqlens_q.push(index_of(ids.len()));
            context_lens.push(index_of(range.end));
            block_tables.extend_from_slice(blocks(row.index));
            block_tables.resize(context_lens.len() * stride, 0);
            if row.samples {
                logit_rows.push(index_of(ids.len() - 1));
            }
        }
    }
}

fn index_of(count: usize) -> u32 {
    u32::try_from(count).expect("positions and rows are bounded by max_model_len and the step's tokens")
}
