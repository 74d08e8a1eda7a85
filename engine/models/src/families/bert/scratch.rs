//! The encoder's activations.

use ferrum_kernels::Backend;

use crate::{BatchLimits, LoadError, config::EncoderConfig, weights::loader::WeightLoader};

/// Activations of one step.
pub(super) struct Scratch<B: Backend> {
    pub(super) hidden: B::Buffer,       // (rows, hidden)
    pub(super) block_out: B::Buffer,    // (rows, hidden)
    pub(super) qkv: B::Buffer,          // (rows, 3 * hidden)
    pub(super) attended: B::Buffer,     // (rows, hidden)
    pub(super) intermediate: B::Buffer, // (rows, intermediate)
    pub(super) pooled: B::Buffer,       // (num_seqs, hidden)
    /// `(rows)` zeros: every text is of the first type.
    pub(super) token_types: B::Indices,
}

impl<B: Backend> Scratch<B> {
    pub(super) fn alloc(
        loader: &WeightLoader<'_, B>,
        config: &EncoderConfig,
        limits: BatchLimits,
    ) -> Result<Self, LoadError> {
        let tokens = limits.max_num_batched_tokens;
        let rows = |width: usize| loader.alloc("activations", tokens * width);
        let token_types = loader.backend.alloc_indices(tokens);
        Ok(Self {
            hidden: rows(config.hidden_size)?,
            block_out: rows(config.hidden_size)?,
            qkv: rows(config.heads.qkv_width())?,
            attended: rows(config.hidden_size)?,
            intermediate: rows(config.intermediate_size)?,
            pooled: loader.alloc("embeddings", limits.max_num_seqs * config.hidden_size)?,
            token_types: token_types.map_err(|source| loader.failed("token types", source))?,
        })
    }
}
