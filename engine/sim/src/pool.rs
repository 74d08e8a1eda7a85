//! The state that all sequences share: room, load, counters, prefix cache.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ferrum_engine::{EngineLoad, KvEvent, SubmitError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use crate::prefix_cache::PrefixCache;

/// What happened to the requests so far; every request ends in exactly one of the last three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub submitted: u64,
    /// Requests whose last event was sent.
    pub finished: u64,
    /// Requests whose client went away.
    pub cancelled: u64,
    /// Requests that ended with an error.
    pub failed: u64,
}

pub(crate) struct Pool {
    pub(crate) load: watch::Sender<EngineLoad>,
    pub(crate) kv_events: broadcast::Sender<KvEvent>,
    pub(crate) failure: watch::Sender<Option<String>>,
    /// Tokens made in all.
    pub(crate) generated: AtomicU64,
    sequences: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    prefix_cache: Mutex<PrefixCache>,
    counters: Mutex<Counters>,
    limits: Limits,
}

/// Bounds of a [`Pool`].
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_waiting: usize,
    pub(crate) num_blocks: usize,
    pub(crate) prefix_caching: bool,
}

/// How a request ended.
pub(crate) enum End {
    Cancelled,
    Failed,
    Finished,
}

/// A request's place in the load; whatever it holds is given back when dropped, wherever the request ends.
pub(crate) struct Ticket {
    pool: Arc<Pool>,
    stage: Stage,
    prompt_tokens: usize,
    blocks: usize,
}

enum Stage {
    Waiting,
    Prefilling(#[allow(dead_code, reason = "held for its drop")] Permits),
    Decoding(#[allow(dead_code, reason = "held for its drop")] Permits),
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        let load = EngineLoad {
            free_blocks: limits.num_blocks,
            total_blocks: limits.num_blocks,
            ..EngineLoad::default()
        };
        let cached_blocks = if limits.prefix_caching {
            limits.num_blocks
        } else {
            0
        };
        Self {
            load: watch::Sender::new(load),
            kv_events: broadcast::Sender::new(4096),
            failure: watch::Sender::new(None),
            generated: AtomicU64::new(0),
            sequences: Arc::new(Semaphore::new(limits.max_num_seqs)),
            blocks: Arc::new(Semaphore::new(limits.num_blocks)),
            prefix_cache: Mutex::new(PrefixCache::new(cached_blocks)),
            counters: Mutex::new(Counters::default()),
            limits,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request that needs `blocks` into the queue.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        prompt_tokens: usize,
        blocks: usize,
    ) -> Result<Ticket, SubmitError> {
        let Limits {
            max_num_seqs,
            max_waiting,
            num_blocks,
            ..
        } = self.limits;
        if blocks > num_blocks {
            return Err(SubmitError::TooLarge {
                needed: blocks,
                total: num_blocks,
            });
        }
        let mut refused = None;
        self.load.send_if_modified(|load| {
            if load.waiting_requests + load.running_requests >= max_num_seqs + max_waiting {
                refused = Some(SubmitError::QueueFull {
                    waiting: load.waiting_requests,
                    limit: max_waiting,
                });
                return false;
            }
            load.waiting_requests += 1;
            load.queued_prefill_tokens += prompt_tokens;
            true
        });
        if let Some(error) = refused {
            return Err(error);
        }
        self.counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .submitted += 1;
        Ok(Ticket {
            pool: Arc::clone(self),
            stage: Stage::Waiting,
            prompt_tokens,
            blocks,
        })
    }

    /// Looks `prompt` up in the prefix cache and keeps it there: tokens found.
    pub(crate) fn read_prompt(&self, prompt: &[u32]) -> usize {
        let mut cache = self.prefix_cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (cached, events) = cache.insert(prompt);
        for event in events {
            // Nobody listens: nobody needs it.
            let _ = self.kv_events.send(event);
        }
        cached
    }

    /// One more token: how many were made in all. Not announced: the totals travel with the next change of load.
    pub(crate) fn count_token(&self) -> u64 {
        self.load.send_if_modified(|load| {
            load.generated_tokens_total += 1;
            load.steps_total += 1;
            false
        });
        self.generated.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn ended(&self, end: &End) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        match end {
            End::Cancelled => counters.cancelled += 1,
            End::Failed => counters.failed += 1,
            End::Finished => counters.finished += 1,
        }
    }
}

impl Ticket {
    /// Waits for a place in the batch and for the blocks, first come first served.
    pub(crate) async fn admit(&mut self) {
        let count = u32::try_from(self.blocks).unwrap_or(u32::MAX);
        let pool = Arc::clone(&self.pool);
        let sequence = Arc::clone(&pool.sequences).acquire_owned().await;
        let blocks = Arc::clone(&pool.blocks).acquire_many_owned(count).await;
        // The semaphores are never closed.
        if let (Ok(sequence), Ok(blocks)) = (sequence, blocks) {
            self.stage = Stage::Prefilling((sequence, blocks));
            pool.load.send_modify(|load| {
                load.waiting_requests -= 1;
                load.running_requests += 1;
                load.free_blocks -= self.blocks;
            });
        }
    }

    /// The prompt is computed.
    pub(crate) fn prefilled(&mut self, cached_tokens: usize) {
        let Stage::Prefilling(permits) = std::mem::replace(&mut self.stage, Stage::Waiting) else {
            return;
        };
        self.stage = Stage::Decoding(permits);
        self.pool.load.send_modify(|load| {
            load.queued_prefill_tokens -= self.prompt_tokens;
            load.prompt_tokens_total += self.prompt_tokens as u64;
            load.cached_tokens_total += cached_tokens as u64;
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pool.load.send_modify(|load| {
            match self.stage {
                Stage::Waiting => load.waiting_requests -= 1,
                Stage::Prefilling(_) | Stage::Decoding(_) => {
                    load.running_requests -= 1;
                    load.free_blocks += self.blocks;
                }
            }
            if !matches!(self.stage, Stage::Decoding(_)) {
                load.queued_prefill_tokens -= self.prompt_tokens;
            }
        });
    }
}
