//! From a [`ScheduledBatch`] to the tokens drawn.

use std::sync::Arc;

use ferrum_engine::TokenLogprob;
use ferrum_kernels::{Backend, BackendError, backend::StepShape, ops::SampleRow};
use ferrum_models::{BatchLimits, CausalLm, ForwardBatch};

use crate::{
    block_pool::{BLOCK_SIZE, blocks_for},
    sampler::sample_row,
    scheduler::{ScheduledBatch, Sequence},
};

/// A decoder, its cache, and the buffers of a step, all allocated once.
pub struct ModelRunner<B: Backend> {
    backend: Arc<B>,
    model: Box<dyn CausalLm<B>>,
    cache: B::KvCache,
    inputs: ForwardBatch<B>,
    staging: Staging,
    /// Most blocks of a sequence.
    max_blocks: usize,
    /// `(max_num_seqs)`
    drawn: B::Indices,
    /// Decode steps that the device plays back. They use the buffers above, which never move.
    recorded: B::Recorded,
}

/// What a step has drawn, one entry for each row that samples, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Log probabilities, where asked for.
    pub logprobs: Vec<Option<TokenLogprob>>,
}

/// The inputs of a step as they are gathered, before they go to the device.
#[derive(Default)]
struct Staging {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    logit_rows: Vec<u32>,
}

impl<B: Backend> ModelRunner<B> {
    /// Allocates a cache of `num_blocks` blocks and the buffers for steps within `limits`, with sequences of at
    /// most `max_model_len` tokens.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(
        backend: Arc<B>,
        model: Box<dyn CausalLm<B>>,
        limits: BatchLimits,
        (num_blocks, max_model_len): (usize, usize),
    ) -> Result<Self, BackendError> {
        let cache = backend.alloc_kv_cache(&model.kv_layout(BLOCK_SIZE, num_blocks))?;
        let inputs = ForwardBatch::alloc(&*backend, limits, blocks_for(max_model_len))?;
        let drawn = backend.alloc_indices(limits.max_num_seqs)?;
        Ok(Self {
            backend,
            model,
            cache,
            inputs,
            staging: Staging::default(),
            max_blocks: blocks_for(max_model_len),
            drawn,
            recorded: B::Recorded::default(),
        })
    }

    /// Writes the inputs of `batch` to the device; `sequences` are the scheduler's running ones.
    ///
    /// # Errors
    /// What the device reports.
    pub fn prepare(&mut self, batch: &ScheduledBatch, sequences: &[Sequence]) -> Result<(), BackendError> {
        let (staging, inputs) = (&mut self.staging, &mut self.inputs);
        staging.gather(batch, sequences, self.max_blocks);
        inputs.num_tokens = staging.ids.len();
        inputs.num_seqs = batch.rows.len();
        inputs.num_logit_rows = staging.logit_rows.len();
        inputs.max_blocks = staging.block_tables.len() / batch.rows.len().max(1);
        let writes = [
            (&staging.ids, &mut inputs.ids),
            (&staging.positions, &mut inputs.positions),
            (&staging.slots, &mut inputs.slots),
            (&staging.cu_seqlens_q, &mut inputs.cu_seqlens_q),
            (&staging.context_lens, &mut inputs.context_lens),
            (&staging.block_tables, &mut inputs.block_tables),
            (&staging.logit_rows, &mut inputs.logit_rows),
        ];
        writes
            .into_iter()
            .try_for_each(|(from, to)| self.backend.write_indices(from, to))
    }

    /// Computes the step that was prepared and draws a token for each of `batch`'s rows that samples.
    ///
    /// # Errors
    /// What the model or the device reports.
    pub fn forward(&mut self, batch: &ScheduledBatch, sequences: &[Sequence]) -> Result<Drawn, BackendError> {
        self.compute()?;
        let (vocab, logits) = (self.model.vocab_size(), self.model.logits());
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
        self.backend.sample(logits, vocab, &rows, &mut self.drawn)?;
        let mut tokens = vec![0; rows.len()];
        self.backend.read_indices_into(&self.drawn, &mut tokens)?;
        let logprobs = sampled
            .iter()
            .zip(&tokens)
            .enumerate()
            .map(|(row, (sequence, &token))| {
                let Some(top) = sequence.sampling().logprobs else {
                    return Ok(None);
                };
                let found = self
                    .backend
                    .logprobs(logits, vocab, row, token, usize::from(top))?;
                Ok(Some(TokenLogprob {
                    logprob: found.chosen,
                    top: found.top,
                }))
            })
            .collect::<Result<_, BackendError>>()?;
        Ok(Drawn { tokens, logprobs })
    }

    /// The model's part of a step.
    fn compute(&mut self) -> Result<(), BackendError> {
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
}

impl Staging {
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
