//! The decoder's activations.

use ferrum_kernels::Backend;

use crate::{
    BatchLimits, LoadError, config::DecoderConfig, layers::Hidden, shard::DecoderShard,
    weights::loader::WeightLoader,
};

/// Activations of one step; `rows` is the step's tokens, `last` the rows whose logits are wanted. Heads and
/// inner elements are the rank's own.
pub(super) struct Scratch<B: Backend> {
    pub(super) hidden: Hidden<B>,        // (rows, hidden)
    pub(super) qkv: B::Buffer,           // (rows, qkv_width)
    pub(super) attended: B::Buffer,      // (rows, q_width)
    pub(super) gate_up: B::Buffer,       // (rows, 2 * intermediate)
    pub(super) activated: B::Buffer,     // (rows, intermediate)
    pub(super) last_residual: B::Buffer, // (last, hidden)
    pub(super) last_out: B::Buffer,      // (last, hidden)
    pub(super) last_normed: B::Buffer,   // (last, hidden)
    pub(super) logits_part: B::Buffer,   // (last, own vocab); empty on a single device
    pub(super) logits: B::Buffer,        // (last, vocab); empty but on the first rank
}

impl<B: Backend> Scratch<B> {
    pub(super) fn alloc(
        loader: &WeightLoader<'_, B>,
        (config, shard): (&DecoderConfig, &DecoderShard),
        limits: BatchLimits,
    ) -> Result<Self, LoadError> {
        let rows = |width: usize| loader.alloc("activations", limits.max_num_batched_tokens * width);
        let sums = |rows: usize, width: usize| loader.alloc_f32("activations", rows * width);
        let last = |width: usize| loader.alloc("logits", limits.max_num_seqs * width);
        let (hidden, intermediate) = (config.hidden_size, shard.intermediate.len);
        let rank = loader.backend.rank();
        let logits_of = |width: usize, here: bool| sums(if here { limits.max_num_seqs } else { 0 }, width);
        Ok(Self {
            hidden: Hidden::alloc(loader, limits.max_num_batched_tokens, hidden)?,
            qkv: rows(shard.heads.qkv_width())?,
            attended: rows(shard.heads.q_width())?,
            gate_up: rows(2 * intermediate)?,
            activated: rows(intermediate)?,
            last_residual: sums(limits.max_num_seqs, hidden)?,
            last_out: last(hidden)?,
            last_normed: last(hidden)?,
            logits_part: logits_of(shard.vocab.len, rank.count > 1)?,
            logits: logits_of(config.vocab_size, rank.index == 0)?,
        })
    }
}
