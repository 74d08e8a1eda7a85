//! Who computes what in the next step.
//!
//! Pure: no device, no clock, no channel. The order is that of arrival, without exception, so that every
//! request's wait is bounded by the work that came before it:
//!
//! - A request is admitted when all blocks that it can ever need are reserved, never otherwise: what runs
//!   always finishes, nothing is preempted. What could not fit an empty cache is refused at once.
//! - A step takes one token of every sequence whose prompt is computed (they are at most `max_num_seqs`),
//!   then fills what is left of `max_num_batched_tokens` with prompts, oldest first, cut where it ends.
//!   As `max_num_seqs <= max_num_batched_tokens`, the oldest unfinished prompt always advances.

mod batch;
mod sequence;

use std::collections::VecDeque;

use ferrum_engine::{KvEvent, LaunchConfig};

use self::batch::LaunchedRow;
pub use self::{
    batch::{Advance, LaunchedBatch, ScheduledBatch, ScheduledRow},
    sequence::{Sequence, SequenceId, max_cached_tokens},
};
use crate::{block_pool::blocks_for, kv_cache::KvCache};

/// What bounds a step and the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences in one step; at least 1.
    pub max_num_seqs: usize,
    /// Most tokens in one step; at least `max_num_seqs`.
    pub max_num_batched_tokens: usize,
    /// Blocks in the cache.
    pub num_blocks: usize,
    /// Whether prompts share the blocks of what was computed before.
    pub prefix_caching: bool,
}

impl SchedulerConfig {
    /// The scheduler's share of `launch`.
    pub fn new(launch: &LaunchConfig, num_blocks: usize) -> Self {
        Self {
            max_num_seqs: launch.max_num_seqs,
            max_num_batched_tokens: launch.max_num_batched_tokens,
            num_blocks,
            prefix_caching: launch.prefix_caching,
        }
    }
}

/// A request that no empty cache could hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request needs {needed} KV cache blocks, the engine has {total}")]
pub struct NeverFits {
    /// Blocks for prompt and answer.
    pub needed: usize,
    /// Blocks in the pool.
    pub total: usize,
}

/// Requests that wait, sequences that run, and the blocks that they hold.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    waiting: VecDeque<Sequence>,
    /// In the order of arrival.
    running: Vec<Sequence>,
    kv: KvCache,
}

impl Scheduler {
    /// An idle scheduler.
    ///
    /// # Panics
    /// If a step could not hold one token of each running sequence.
    pub fn new(config: SchedulerConfig) -> Self {
        let SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            num_blocks,
            prefix_caching,
        } = config;
        assert!(
            1 <= max_num_seqs && max_num_seqs <= max_num_batched_tokens,
            "LaunchConfig::validate refuses this"
        );
        let kv = KvCache::new(num_blocks, prefix_caching);
        Self {
            config,
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv,
        }
    }

    /// Queues a sequence of at least one token that may draw at least one.
    ///
    /// # Errors
    /// [`NeverFits`].
    pub fn submit(&mut self, sequence: Sequence) -> Result<(), NeverFits> {
        let (needed, total) = (blocks_for(sequence.max_cached_tokens()), self.config.num_blocks);
        if needed > total {
            return Err(NeverFits { needed, total });
        }
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// Forgets a sequence, wherever it is; its blocks are free when this returns: a step under way that still writes to
    /// them ends before any that is decided later begins. Not between [`Self::schedule`] and [`Self::launch`].
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        if let Some(at) = self.running.iter().position(|sequence| sequence.id() == id) {
            self.kv.release(self.running.remove(at).table);
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.id() != id);
        self.waiting.len() < before
    }

    /// Decides the next step. It is empty only if nothing waits and nothing runs, or what runs lacks nothing but the
    /// tokens of a step under way.
    pub fn schedule(&mut self) -> ScheduledBatch {
        let mut batch = ScheduledBatch::default();
        for index in 0..self.running.len() {
            let sequence = &self.running[index];
            if sequence.decodes() && !sequence.is_complete() {
                self.add_row(index, 1, &mut batch);
            }
        }
        let mut budget = self.config.max_num_batched_tokens - batch.rows.len();
        for index in 0..self.running.len() {
            if !self.running[index].decodes() {
                budget -= self.add_prefill(index, budget, &mut batch);
            }
        }
        while budget > 0 && self.admit_next(&mut batch) {
            budget -= self.add_prefill(self.running.len() - 1, budget, &mut batch);
        }
        batch
    }

    /// Says that the step was asked for. The next may be decided before it has brought its tokens; each sequence has a
    /// token more then, which is not known yet ([`Sequence::pending`]).
    pub fn launch(&mut self, batch: &ScheduledBatch) -> LaunchedBatch {
        let mut draws = 0..;
        let launch = |row: &ScheduledRow| {
            let sequence = &mut self.running[row.index];
            let end = row.start + row.num_tokens;
            sequence.computed = end;
            if row.samples {
                sequence.push_pending(draws.next().expect("there is no last number"));
            }
            LaunchedRow {
                id: sequence.id(),
                end,
                samples: row.samples,
            }
        };
        LaunchedBatch {
            rows: batch.rows.iter().map(launch).collect(),
        }
    }

    /// Takes the tokens that the oldest step under way has drawn, one for each row that samples, in order. What has gone
    /// in the meantime is passed over.
    ///
    /// # Panics
    /// If `drawn` are not as many.
    pub fn settle(&mut self, batch: &LaunchedBatch, drawn: &[u32]) -> Vec<Advance> {
        let mut advances = Vec::with_capacity(drawn.len());
        let mut drawn = drawn.iter().copied().enumerate();
        for row in &batch.rows {
            let draw = row
                .samples
                .then(|| drawn.next().expect("a token for each row that samples"));
            let Ok(at) = self.running.binary_search_by_key(&row.id, Sequence::id) else {
                continue;
            };
            let sequence = &mut self.running[at];
            let Sequence { table, tokens, .. } = sequence;
            self.kv.cache_full_blocks(table, tokens, row.end);
            if let Some((draw, token)) = draw {
                let finished = sequence
                    .settle(row.end, token)
                    .map(|reason| (reason, sequence.usage()));
                advances.push(Advance {
                    id: row.id,
                    draw,
                    token,
                    finished,
                });
            }
        }
        assert!(drawn.next().is_none(), "more tokens than rows that sample");
        for advance in advances.iter().filter(|advance| advance.finished.is_some()) {
            self.cancel(advance.id);
        }
        advances
    }

    /// [`Self::launch`] and [`Self::settle`] at once, where a step brings its tokens before the next is decided.
    ///
    /// # Panics
    /// As [`Self::settle`].
    pub fn commit(&mut self, batch: &ScheduledBatch, drawn: &[u32]) -> Vec<Advance> {
        let launched = self.launch(batch);
        self.settle(&launched, drawn)
    }

    /// The sequences that hold blocks, in the order of arrival.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Sequences that wait for room.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Prompt tokens not computed yet, of waiting and running sequences.
    pub fn queued_prefill_tokens(&self) -> usize {
        self.waiting
            .iter()
            .chain(&self.running)
            .map(Sequence::uncomputed_prompt)
            .sum()
    }

    /// The cache, to look at.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Changes of the prefix cache since the last call.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        self.kv.take_events()
    }

    /// Checks every structure against the others.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_integrity(&self) -> Result<(), String> {
        if self.running.len() > self.config.max_num_seqs {
            return Err(format!("{} sequences run", self.running.len()));
        }
        if !self
            .running
            .iter()
            .chain(&self.waiting)
            .map(Sequence::id)
            .is_sorted_by(|a, b| a < b)
        {
            return Err("sequences are not in the order of arrival".to_owned());
        }
        if let Some(sequence) = self.running.iter().find(|s| s.computed >= s.tokens().len()) {
            return Err(format!("sequence {} has nothing to compute", sequence.id()));
        }
        if let Some(sequence) = self.waiting.iter().find(|s| !s.table.blocks().is_empty()) {
            return Err(format!("sequence {} waits and holds blocks", sequence.id()));
        }
        self.kv.check_integrity(self.running.iter().map(Sequence::table))
    }

    /// Moves the request that waits longest to the running ones, if there is room for all that it can need.
    fn admit_next(&mut self, batch: &mut ScheduledBatch) -> bool {
        if self.running.len() == self.config.max_num_seqs {
            return false;
        }
        let Some(first) = self.waiting.front() else {
            return false;
        };
        let Some(table) = self.kv.admit(first.tokens(), first.max_cached_tokens()) else {
            return false;
        };
        let mut sequence = self.waiting.pop_front().expect("it was there");
        sequence.computed = table.num_tokens();
        sequence.cached = sequence.computed;
        sequence.table = table;
        batch.num_cached_tokens += sequence.computed;
        batch.num_admitted += 1;
        self.running.push(sequence);
        true
    }

    /// Schedules as much of a prompt as `budget` allows. Returns the tokens.
    fn add_prefill(&mut self, index: usize, budget: usize, batch: &mut ScheduledBatch) -> usize {
        if budget == 0 {
            return 0;
        }
        let sequence = &mut self.running[index];
        let shared = self.kv.share(&mut sequence.table, &sequence.tokens);
        sequence.computed += shared;
        sequence.cached += shared;
        batch.num_cached_tokens += shared;
        let num_tokens = budget.min(sequence.uncomputed_prompt());
        batch.num_prefill_tokens += num_tokens;
        self.add_row(index, num_tokens, batch);
        num_tokens
    }

    fn add_row(&mut self, index: usize, num_tokens: usize, batch: &mut ScheduledBatch) {
        let sequence = &mut self.running[index];
        let (start, end) = (sequence.computed, sequence.computed + num_tokens);
        self.kv.grow(&mut sequence.table, end);
        let samples = end == sequence.tokens().len();
        batch.rows.push(ScheduledRow {
            index,
            start,
            num_tokens,
            samples,
        });
    }
}
