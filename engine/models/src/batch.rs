//! The inputs of one step, in buffers that were allocated once.

use ferrum_kernels::{Backend, BackendError, ops::PagedBatch};

/// The largest step that a loaded model has scratch memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Token rows.
    pub max_num_batched_tokens: usize,
    /// Sequences, and rows of logits.
    pub max_num_seqs: usize,
}

impl BatchLimits {
    fn check(&self, what: &str, count: usize, limit: usize) -> Result<(), BackendError> {
        if count <= limit {
            return Ok(());
        }
        Err(BackendError::Shape(format!(
            "a step of {count} {what}, the model has room for {limit}"
        )))
    }
}

/// One step of a [`CausalLm`](crate::CausalLm): prefill chunks and decode rows of any mix of sequences, laid end
/// to end. The runtime fills the indices with [`Backend::write_all_indices`] and sets the counts; only the first
/// `num_*` entries are read.
pub struct ForwardBatch<B: Backend> {
    /// `(num_tokens)`: token ids, each below the vocabulary.
    pub ids: B::Indices,
    /// `(num_tokens)`: position of each token in its sequence, from 0.
    pub positions: B::Indices,
    /// `(num_tokens)`: where its key and value go, block * block_size + offset.
    pub slots: B::Indices,
    /// `(num_seqs + 1)`: first row of each sequence, then `num_tokens`.
    pub cu_seqlens_q: B::Indices,
    /// `(num_seqs)`: tokens of each sequence in the cache after this step.
    pub context_lens: B::Indices,
    /// `(num_seqs, max_blocks)`: the blocks of each sequence, in order.
    pub block_tables: B::Indices,
    /// `(num_logit_rows)`: the token rows whose logits are wanted; the last row of a sequence that samples.
    pub logit_rows: B::Indices,
    /// Token rows in this step.
    pub num_tokens: usize,
    /// Sequences in this step.
    pub num_seqs: usize,
    /// Row stride of `block_tables` in this step.
    pub max_blocks: usize,
    /// Rows of logits wanted; may be 0 (no sequence ends its prompt in this step).
    pub num_logit_rows: usize,
}

impl<B: Backend> ForwardBatch<B> {
    /// Buffers for the largest step; `max_blocks` is the most blocks that a sequence can have. All counts are 0.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn alloc(backend: &B, limits: BatchLimits, max_blocks: usize) -> Result<Self, BackendError> {
        let tokens = limits.max_num_batched_tokens;
        let seqs = limits.max_num_seqs;
        Ok(Self {
            ids: backend.alloc_indices(tokens)?,
            positions: backend.alloc_indices(tokens)?,
            slots: backend.alloc_indices(tokens)?,
            cu_seqlens_q: backend.alloc_indices(seqs + 1)?,
            context_lens: backend.alloc_indices(seqs)?,
            block_tables: backend.alloc_indices(seqs * max_blocks)?,
            logit_rows: backend.alloc_indices(seqs)?,
            num_tokens: 0,
            num_seqs: 0,
            max_blocks,
            num_logit_rows: 0,
        })
    }

    /// Refuses counts beyond `limits`.
    pub(crate) fn check(&self, limits: BatchLimits) -> Result<(), BackendError> {
        limits.check("tokens", self.num_tokens, limits.max_num_batched_tokens)?;
        limits.check("sequences", self.num_seqs, limits.max_num_seqs)?;
        limits.check("rows of logits", self.num_logit_rows, limits.max_num_seqs)
    }

    /// The sequences as attention reads them.
    pub fn paged(&self) -> PagedBatch<'_, B::Indices> {
        PagedBatch {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks: self.max_blocks,
            num_seqs: self.num_seqs,
            rows: self.num_tokens,
        }
    }
}

/// One step of an [`Embedder`](crate::Embedder): whole texts laid end to end, without padding.
pub struct EmbedBatch<B: Backend> {
    /// `(num_tokens)`: token ids, special tokens included, each below the vocabulary.
    pub ids: B::Indices,
    /// `(num_tokens)`: position of each token in its text, from 0.
    pub positions: B::Indices,
    /// `(num_seqs + 1)`: first row of each text, then `num_tokens`.
    pub cu_seqlens: B::Indices,
    /// Token rows in this step.
    pub num_tokens: usize,
    /// Texts in this step.
    pub num_seqs: usize,
}

impl<B: Backend> EmbedBatch<B> {
    /// Buffers for the largest step. All counts are 0.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn alloc(backend: &B, limits: BatchLimits) -> Result<Self, BackendError> {
        Ok(Self {
            ids: backend.alloc_indices(limits.max_num_batched_tokens)?,
            positions: backend.alloc_indices(limits.max_num_batched_tokens)?,
            cu_seqlens: backend.alloc_indices(limits.max_num_seqs + 1)?,
            num_tokens: 0,
            num_seqs: 0,
        })
    }

    /// Refuses counts beyond `limits`.
    pub(crate) fn check(&self, limits: BatchLimits) -> Result<(), BackendError> {
        limits.check("tokens", self.num_tokens, limits.max_num_batched_tokens)?;
        limits.check("texts", self.num_seqs, limits.max_num_seqs)
    }
}
