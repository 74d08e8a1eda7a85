//! From a [`ScheduledBatch`] to the tokens drawn.

use std::sync::Arc;

use ferrum_engine::TokenLogprob;
use ferrum_kernels::{Backend, BackendError, ops::SampleRow};
use ferrum_models::BatchLimits;

use crate::{
    block_pool::blocks_for,
    rank::{Follower, RankModel, RankRunner, StepInputs},
    sampler::sample_row,
    scheduler::{ScheduledBatch, Sequence},
};

/// A decoder on one device, or on several that share it: they get the same steps, and the first draws the tokens.
pub struct ModelRunner<B: Backend> {
    first: RankRunner<B>,
    followers: Vec<Follower>,
    step: Arc<StepInputs>,
    /// Most blocks of a sequence.
    max_blocks: usize,
    /// `(max_num_seqs)`
    drawn: B::Indices,
}

/// What a step has drawn, one entry for each row that samples, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Log probabilities, where asked for.
    pub logprobs: Vec<Option<TokenLogprob>>,
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
            drawn: first.backend.alloc_indices(limits.max_num_seqs)?,
            followers: runners.map(Follower::spawn).collect::<Result<_, _>>()?,
            first,
            step: Arc::default(),
            max_blocks: blocks_for(max_model_len),
        })
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

    /// Computes the step that was prepared and draws a token for each of `batch`'s rows that samples.
    ///
    /// # Errors
    /// What the model or a device reports.
    pub fn forward(&mut self, batch: &ScheduledBatch, sequences: &[Sequence]) -> Result<Drawn, BackendError> {
        let drawn = self.compute_and_draw(batch, sequences);
        if drawn.is_err() {
            // Others would wait for what will not come.
            self.first.backend.leave();
        }
        let finished: Result<Vec<()>, _> = self.followers.iter_mut().map(Follower::finish).collect();
        match (drawn, finished) {
            (Ok(drawn), Ok(_)) => Ok(drawn),
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
    ) -> Result<Drawn, BackendError> {
        self.first.compute()?;
        let RankRunner { backend, model, .. } = &self.first;
        let (vocab, logits) = (model.vocab_size(), model.logits());
        let sampled: Vec<&Sequence> = batch
            .rows
            .iter()
            .filter(|row| row.samples)
            .map(|row| &sequences[row.index])
            .collect();
        if sampled.is_empty() {
            return Ok(Drawn::default());
        }
        let rows: Vec<SampleRow<'_>> = sampled.iter().map(|sequence| sample_row(sequence)).collect();
        backend.sample(logits, vocab, &rows, &mut self.drawn)?;
        let mut tokens = vec![0; rows.len()];
        backend.read_indices_into(&self.drawn, &mut tokens)?;
        let logprobs = sampled
            .iter()
            .zip(&tokens)
            .enumerate()
            .map(|(row, (sequence, &token))| {
                let Some(top) = sequence.sampling().logprobs else {
                    return Ok(None);
                };
                let found = backend.logprobs(logits, vocab, row, token, usize::from(top))?;
                Ok(Some(TokenLogprob {
                    logprob: found.chosen,
                    top: found.top,
                }))
            })
            .collect::<Result<_, BackendError>>()?;
        Ok(Drawn { tokens, logprobs })
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
        } = self;
        for list in [
            &mut *ids,
            positions,
            slots,
            &mut *cu_seqlens_q,
            context_lens,
            &mut *block_tables,
            logit_rows,
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
