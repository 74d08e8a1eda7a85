//! From logits to token ids.

use crate::backend::{BackendError, BackendTypes};

/// How one row of logits is sampled. Order: logit bias, penalties, grammar mask, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug)]
pub struct SampleRow<'a> {
    /// 0 is greedy: the argmax after bias and penalties, the lowest id on a tie.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of ids in `prompt` or `generated`; 1 is off (Keskar et
    /// al. 2019).
    pub repetition_penalty: f32,
    /// Subtracted once from logits of ids in `generated` (OpenAI).
    pub presence_penalty: f32,
    /// Subtracted from logits of ids in `generated`, times their count (OpenAI).
    pub frequency_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: &'a [(u32, f32)],
    /// What a grammar lets come next: one bit an id, from the lowest of a word on, `vocab.div_ceil(32)` words. `None` lets
    /// everything. If it leaves no id with a logit above minus infinity, the draw is 0.
    pub allowed: Option<&'a [u32]>,
    /// Prompt ids.
    pub prompt: &'a [u32],
    /// Ids generated so far.
    pub generated: &'a [u32],
    /// The request's seed; with `position` it is the whole state of the random numbers (counter-based,
    /// Philox 4x32-10, Salmon et al. 2011), so that a draw depends on nothing else.
    pub seed: u64,
    /// Index of the token drawn, from the start of the prompt.
    pub position: u64,
}

/// Log probabilities of one row, from the logits as the model gave them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The likeliest tokens, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// As the source of a row of [`SamplingOps::feed`]: its id is known already.
pub const KNOWN: u32 = u32::MAX;

/// Sampling from logits `(rows, vocab)`.
pub trait SamplingOps: BackendTypes {
    /// One id a row into `out` `(rows.len())`; `logits` are not changed.
    fn sample(
        &self,
        logits: &Self::Buffer,
        vocab: usize,
        rows: &[SampleRow<'_>],
        out: &mut Self::Indices,
    ) -> Result<(), BackendError>;

    /// Puts what was drawn into the inputs of the step that follows, without the host: `ids[i] = drawn[sources[i]]` for
    /// the first `rows`, but where the source is [`KNOWN`].
    fn feed(
        &self,
        drawn: &Self::Indices,
        sources: &Self::Indices,
        rows: usize,
        ids: &mut Self::Indices,
    ) -> Result<(), BackendError>;

    /// Log probabilities of `token` and of the `top` likeliest in row `row`.
    fn logprobs(
        &self,
        logits: &Self::Buffer,
        vocab: usize,
        row: usize,
        token: u32,
        top: usize,
    ) -> Result<TokenLogprobs, BackendError>;
}
