//! One sequence: its tokens, how many of them are computed, its blocks.

use ferrum_engine::{FinishReason, GenerateRequest, SamplingParams, Usage};

use crate::kv_cache::BlockTable;

/// Names a sequence for as long as the engine runs; later ones are larger.
pub type SequenceId = u64;

/// A request as the scheduler sees it.
#[derive(Debug)]
pub struct Sequence {
    id: SequenceId,
    /// Prompt, then what was generated.
    pub(super) tokens: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    stop_token_ids: Vec<u32>,
    sampling: SamplingParams,
    /// While the last token is not known: which draw of the newest step it is.
    pending: Option<usize>,
    /// Tokens whose keys and values are in the cache.
    pub(super) computed: usize,
    /// Of the prompt, tokens that were found in the cache.
    pub(super) cached: usize,
    pub(super) table: BlockTable,
}

impl Sequence {
    /// A sequence of which nothing is computed.
    pub fn new(id: SequenceId, request: GenerateRequest) -> Self {
        let GenerateRequest {
            id: _,
            prompt,
            max_tokens,
            sampling,
            stop_token_ids,
        } = request;
        Self {
            id,
            prompt_len: prompt.len(),
            tokens: prompt,
            max_tokens,
            stop_token_ids,
            sampling,
            pending: None,
            computed: 0,
            cached: 0,
            table: BlockTable::default(),
        }
    }

    /// Its name.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// Prompt, then what was generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_len]
    }

    /// What was generated.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// How to draw.
    pub fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    /// While the last of [`Self::tokens`] stands for one that is not known yet: which draw of the newest step it is.
    pub fn pending(&self) -> Option<usize> {
        self.pending
    }

    /// Whether the host need not know a token to ask for the next: penalties count tokens, and log probabilities are
    /// read from the logits of their own step.
    pub fn runs_ahead(&self) -> bool {
        let SamplingParams {
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logprobs,
            ..
        } = &self.sampling;
        *repetition_penalty == 1.0
            && *presence_penalty == 0.0
            && *frequency_penalty == 0.0
            && logprobs.is_none()
    }

    /// Its blocks.
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// Prompt tokens that are neither computed nor found in the cache.
    pub fn uncomputed_prompt(&self) -> usize {
        self.prompt_len.saturating_sub(self.computed)
    }

    /// Most tokens that it can ever have in the cache: the last one drawn is never computed.
    pub fn max_cached_tokens(&self) -> usize {
        max_cached_tokens(self.prompt_len, self.max_tokens)
    }

    /// Tokens read and made so far.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached,
            completion_tokens: self.generated().len(),
        }
    }

    /// Whether its prompt is computed, so that a step is one token.
    pub(super) fn decodes(&self) -> bool {
        self.computed >= self.prompt_len
    }

    /// Whether all its tokens are drawn, known or not.
    pub(super) fn is_complete(&self) -> bool {
        self.generated().len() >= self.max_tokens
    }

    /// Makes room for a token that is the step's draw number `draw`.
    pub(super) fn push_pending(&mut self, draw: usize) {
        self.tokens.push(0);
        self.pending = Some(draw);
    }

    /// The token at `at` is known now. Says why, if it is the last; what was drawn after it is forgotten.
    pub(super) fn settle(&mut self, at: usize, token: u32) -> Option<FinishReason> {
        self.tokens[at] = token;
        if at + 1 == self.tokens.len() {
            self.pending = None;
        }
        let reason = if self.stop_token_ids.contains(&token) {
            FinishReason::Stop
        } else if at + 1 - self.prompt_len >= self.max_tokens {
            FinishReason::Length
        } else {
            return None;
        };
        self.tokens.truncate(at + 1);
        self.pending = None;
        Some(reason)
    }
}

/// Tokens that a sequence can have in the cache: all but the last one drawn, which is never computed.
pub fn max_cached_tokens(prompt_len: usize, max_tokens: usize) -> usize {
    prompt_len.saturating_add(max_tokens.saturating_sub(1))
}
