//! What a loaded model can do, one trait a task.

use ferrum_kernels::{Backend, BackendError, backend::KvLayout};

use crate::{BatchLimits, EmbedBatch, ForwardBatch};

/// A loaded model. It owns its weights and its scratch memory; one step runs at a time.
pub enum Model<B: Backend> {
    /// Predicts the next token.
    Causal(Box<dyn CausalLm<B>>),
    /// Makes one vector of a text.
    Embedding(Box<dyn Embedder<B>>),
}

/// A decoder.
pub trait CausalLm<B: Backend>: Send {
    /// The largest step.
    fn limits(&self) -> BatchLimits;

    /// Entries of the vocabulary: the width of the logits.
    fn vocab_size(&self) -> usize;

    /// Most tokens that a sequence can have; positions are below it.
    fn max_model_len(&self) -> usize;

    /// The cache that this model needs, with `num_blocks` blocks of `block_size` tokens. Keys and values are F32
    /// beside dense weights and F16 beside quantized ones.
    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout;

    /// Computes one step: writes the keys and values of all tokens into `cache` and returns the logits
    /// `(num_logit_rows, vocab_size)`, valid until the next step. The output layer runs on the rows asked for only.
    ///
    /// # Errors
    /// [`BackendError::Shape`] for a batch beyond [`Self::limits`], or what the device reports.
    fn forward(
        &mut self,
        backend: &B,
        batch: &ForwardBatch<B>,
        cache: &mut B::KvCache,
    ) -> Result<&B::Buffer, BackendError>;

    /// The buffer that [`Self::forward`] returns, always the same.
    fn logits(&self) -> &B::Buffer;
}

/// An encoder with pooling.
pub trait Embedder<B: Backend>: Send {
    /// The largest step. One text of [`Self::max_model_len`] tokens always fits.
    fn limits(&self) -> BatchLimits;

    /// Entries of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Most tokens that a text can have.
    fn max_model_len(&self) -> usize;

    /// Elements of a vector.
    fn dims(&self) -> usize;

    /// Computes one step and returns `(num_seqs, dims)`, pooled and normalised as the checkpoint says, valid until
    /// the next step.
    ///
    /// # Errors
    /// [`BackendError::Shape`] for a batch beyond [`Self::limits`], or what the device reports.
    fn forward(&mut self, backend: &B, batch: &EmbedBatch<B>) -> Result<&B::Buffer, BackendError>;
}
