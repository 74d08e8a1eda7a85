//! The decoder's activations.

use ferrum_kernels::Backend;

use crate::{BatchLimits, LoadError, config::DecoderConfig, weights::loader::WeightLoader};

/// Activations of one step; `rows` is the step's tokens, `last` the rows whose logits are wanted.
pub(super) struct Scratch<B: Backend> {
    pub(super) residual: B::Buffer,      // (rows, hidden)
    pub(super) normed: B::Buffer,        // (rows, hidden)
    pub(super) block_out: B::Buffer,     // (rows, hidden)
    pub(super) qkv: B::Buffer,           // (rows, qkv_width)
    pub(super) attended: B::Buffer,      // (rows, q_width)
    pub(super) gate_up: B::Buffer,       // (rows, 2 * intermediate)
    pub(super) activated: B::Buffer,     // (rows, intermediate)
    pub(super) last_residual: B::Buffer, // (last, hidden)
    pub(super) last_out: B::Buffer,      // (last, hidden)
    pub(super) last_normed: B::Buffer,   // (last, hidden)
    pub(super) logits: B::Buffer,        // (last, vocab)
}

impl<B: Backend> Scratch<B> {
    pub(super) fn alloc(
        loader: &WeightLoader<'_, B>,
        config: &DecoderConfig,
        limits: BatchLimits,
    ) -> Result<Self, LoadError> {
        let rows = |width: usize| loader.alloc("activations", limits.max_num_batched_tokens * width);
        let sums = |rows: usize, width: usize| loader.alloc_f32("activations", rows * width);
        let last = |width: usize| loader.alloc("logits", limits.max_num_seqs * width);
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            residual: sums(limits.max_num_batched_tokens, hidden)?,
            normed: rows(hidden)?,
            block_out: rows(hidden)?,
            qkv: rows(config.heads.qkv_width())?,
            attended: rows(config.heads.q_width())?,
            gate_up: rows(2 * intermediate)?,
            activated: rows(intermediate)?,
            last_residual: sums(limits.max_num_seqs, hidden)?,
            last_out: last(hidden)?,
            last_normed: last(hidden)?,
            logits: sums(limits.max_num_seqs, config.vocab_size)?,
        })
    }
}
