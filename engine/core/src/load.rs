//! What an engine reports while it runs.

use serde::{Deserialize, Serialize};

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineLoad {
    /// Requests that wait for room.
    pub waiting_requests: usize,
    /// Requests in the running batch.
    pub running_requests: usize,
    /// Prompt tokens not computed yet, of waiting and running requests.
    pub queued_prefill_tokens: usize,
    /// Blocks that could be given out now, cached ones included.
    pub free_blocks: usize,
    /// Blocks in the pool.
    pub total_blocks: usize,
    /// Measured prefill rate, tokens a second; 0 until measured.
    pub prefill_tokens_per_second: f32,
    /// Measured decode rate of the whole batch, tokens a second; 0 until measured.
    pub decode_tokens_per_second: f32,
    /// Prompt tokens read since the start.
    pub prompt_tokens_total: u64,
    /// Of these, found in the prefix cache.
    pub cached_tokens_total: u64,
    /// Tokens generated (or texts' tokens embedded) since the start.
    pub generated_tokens_total: u64,
    /// Steps since the start.
    pub steps_total: u64,
}

/// A change of the prefix cache, in the terms of block hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// All blocks are gone.
    Cleared,
    /// A block left the cache.
    Evicted {
        /// Its hash.
        hash: u64,
    },
    /// A full block entered the cache.
    Stored {
        /// Hash of the chain up to and with this block.
        hash: u64,
        /// Hash of the chain before it; `None` for the first block of a prompt.
        parent: Option<u64>,
        /// The tokens in it.
        tokens: Vec<u32>,
    },
}
