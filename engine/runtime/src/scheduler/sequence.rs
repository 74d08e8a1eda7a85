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

    /// Adds the token that was drawn. Says why, if it was the last.
    pub(super) fn push(&mut self, token: u32) -> Option<FinishReason> {
        self.tokens.push(token);
        if self.stop_token_ids.contains(&token) {
            return Some(FinishReason::Stop);
        }
        (self.generated().len() >= self.max_tokens).then_some(FinishReason::Length)
    }
}

/// Tokens that a sequence can have in the cache: all but the last one drawn, which is never computed.
pub fn max_cached_tokens(prompt_len: usize, max_tokens: usize) -> usize {
    prompt_len.saturating_add(max_tokens.saturating_sub(1))
}
