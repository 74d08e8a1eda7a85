//! The scheduler and the cache with a device that is a vector of slots. The next token is a hash of all tokens read
//! back through the block table, so that a wrong slot, a wrong block, a stale or an overwritten cache gives wrong tokens.
#![allow(unreachable_pub)]

use std::collections::{HashMap, HashSet, VecDeque};

use ferrum_engine::{GenerateRequest, KvEvent, SamplingParams};
use ferrum_runtime::{
    block_pool::{BLOCK_SIZE, blocks_for},
    scheduler::{
        LaunchedBatch, ScheduledBatch, Scheduler, SchedulerConfig, Sequence, SequenceId, max_cached_tokens,
    },
};

/// Ids are below this, few enough that answers meet again.
pub const VOCAB: u32 = 40;
/// Ends a generation.
pub const STOP: u32 = 0;

fn next_token(context: impl Iterator<Item = u32>) -> u32 {
    let hash = context.fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
    });
    u32::try_from((hash >> 32) % u64::from(VOCAB)).expect("below the vocabulary")
}

/// The tokens of a request that runs alone, without any cache.
fn alone(request: &GenerateRequest) -> Vec<u32> {
    let mut tokens = request.prompt.clone();
    for _ in 0..request.max_tokens {
        let token = next_token(tokens.iter().copied());
        tokens.push(token);
        if request.stop_token_ids.contains(&token) {
            break;
        }
    }
    tokens.split_off(request.prompt.len())
}

pub struct Live {
    pub request: GenerateRequest,
    pub generated: Vec<u32>,
    /// The last step in which it may end.
    pub deadline: usize,
}

pub struct Simulation {
    pub config: SchedulerConfig,
    pub scheduler: Scheduler,
    pub slots: Vec<Option<u32>>,
    /// How many steps stay under way while the next is decided.
    pub ahead: usize,
    pub under_way: VecDeque<(LaunchedBatch, Vec<u32>)>,
    /// What the newest step has drawn.
    pub drawn: Vec<u32>,
    pub live: HashMap<SequenceId, Live>,
    pub cached: HashSet<u64>,
    pub next_id: SequenceId,
    pub step: usize,
    pub finished: usize,
}

impl Simulation {
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            scheduler: Scheduler::new(config),
            slots: vec![None; config.num_blocks * BLOCK_SIZE],
            ahead: 0,
            under_way: VecDeque::new(),
            drawn: Vec::new(),
            live: HashMap::new(),
            cached: HashSet::new(),
            next_id: 0,
            step: 0,
            finished: 0,
        }
    }

    pub fn submit(&mut self, prompt: Vec<u32>, max_tokens: usize) {
        let id = self.next_id;
        self.next_id += 1;
        let request = GenerateRequest {
            id: id.to_string(),
            prompt,
            max_tokens,
            sampling: SamplingParams::default(),
            stop_token_ids: vec![STOP],
        };
        let fits = blocks_for(max_cached_tokens(request.prompt.len(), max_tokens)) <= self.config.num_blocks;
        let taken = self.scheduler.submit(Sequence::new(id, request.clone())).is_ok();
        assert_eq!(taken, fits, "refused exactly what an empty cache cannot hold");
        if taken {
            self.live.insert(
                id,
                Live {
                    request,
                    generated: Vec::new(),
                    deadline: 0,
                },
            );
            self.live.get_mut(&id).expect("inserted").deadline = self.step + self.longest_wait();
        }
    }

    /// Steps until all live requests, the newest included, have ended, whatever arrives after them.
    ///
    /// In a step where one of them is prefilling, the oldest such gets at least `max_num_batched_tokens -
    /// (max_num_seqs - 1)` tokens, as each other sequence decodes one at most: either so many prompt tokens
    /// are computed, or a prompt ends. In a step where none is prefilling, the newest is decoding itself or,
    /// while it waits, one of the older ones is. So each step uses up one unit of the sum.
    pub fn longest_wait(&self) -> usize {
        let least_prefill = self.config.max_num_batched_tokens - (self.config.max_num_seqs - 1);
        let units =
            |live: &Live| live.request.prompt.len().div_ceil(least_prefill) + 1 + live.request.max_tokens;
        // With its tokens a step late, each ends, and leaves its place, a step later; and so does one that was cancelled.
        self.live
            .values()
            .map(|live| units(live) + 2 * self.ahead)
            .sum::<usize>()
            + 2 * self.ahead
    }

    pub fn cancel(&mut self, pick: usize) {
        let mut ids: Vec<_> = self.live.keys().copied().collect();
        ids.sort_unstable();
        if !ids.is_empty() {
            let id = ids[pick % ids.len()];
            self.live.remove(&id);
            assert!(self.scheduler.cancel(id));
            assert!(!self.scheduler.cancel(id), "gone");
            self.scheduler.check_integrity().expect("sound after a cancel");
        }
    }

    pub fn step(&mut self) {
        let batch = self.scheduler.schedule();
        self.scheduler.check_integrity().expect("sound after schedule");
        if self.under_way.is_empty() {
            assert_eq!(
                batch.is_empty(),
                self.live.is_empty(),
                "there is a step exactly if there is work"
            );
        }
        assert!(batch.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(batch.rows.len() <= self.config.max_num_seqs);
        self.step += 1;
        let mut stays = 0;
        if !batch.is_empty() {
            let drawn = self.compute(&batch);
            let launched = self.scheduler.launch(&batch);
            self.scheduler.check_integrity().expect("sound after launch");
            self.under_way.push_back((launched, drawn));
            stays = self.ahead;
        }
        while self.under_way.len() > stays {
            self.settle_oldest();
        }
        self.replay_events();
    }

    pub fn settle_oldest(&mut self) {
        let (launched, drawn) = self.under_way.pop_front().expect("one is under way");
        let advances = self.scheduler.settle(&launched, &drawn);
        self.scheduler.check_integrity().expect("sound after settle");
        for advance in advances {
            assert_eq!(drawn[advance.draw], advance.token);
            let live = self
                .live
                .get_mut(&advance.id)
                .expect("only live sequences advance");
            live.generated.push(advance.token);
            assert!(self.step <= live.deadline, "sequence {} starves", advance.id);
            if let Some((_, usage)) = advance.finished {
                let live = self.live.remove(&advance.id).expect("live");
                assert_eq!(live.generated, alone(&live.request), "as if it had run alone");
                assert_eq!(usage.completion_tokens, live.generated.len());
                assert!(usage.cached_tokens < usage.prompt_tokens);
                self.finished += 1;
            }
        }
    }

    /// All writes first, then all reads, as a layer does.
    pub fn compute(&mut self, batch: &ScheduledBatch) -> Vec<u32> {
        for row in &batch.rows {
            let sequence = &self.scheduler.running()[row.index];
            for position in row.start..row.start + row.num_tokens {
                let slot = sequence.table().slot(position) as usize;
                let is_last = position + 1 == sequence.tokens().len();
                let token = match sequence.pending().filter(|_| is_last) {
                    Some(draw) => self.drawn[draw],
                    None => sequence.tokens()[position],
                };
                self.slots[slot] = Some(token);
            }
        }
        let sampled = batch.rows.iter().filter(|row| row.samples);
        self.drawn = sampled
            .map(|row| {
                let sequence = &self.scheduler.running()[row.index];
                let slots = (0..row.start + row.num_tokens).map(|at| sequence.table().slot(at) as usize);
                next_token(slots.map(|slot| self.slots[slot].expect("written before it is read")))
            })
            .collect();
        self.drawn.clone()
    }

    pub fn replay_events(&mut self) {
        for event in self.scheduler.take_events() {
            match event {
                KvEvent::Cleared => self.cached.clear(),
                KvEvent::Evicted { hash } => assert!(self.cached.remove(&hash), "evicted what was stored"),
                KvEvent::Stored { hash, parent, tokens } => {
                    assert_eq!(tokens.len(), BLOCK_SIZE);
                    assert!(parent.is_none_or(|parent| self.cached.contains(&parent)));
                    assert!(self.cached.insert(hash), "stored once");
                }
            }
        }
    }

    pub fn run_out(&mut self) {
        while !self.live.is_empty() || !self.under_way.is_empty() {
            self.step();
        }
        assert_eq!(self.scheduler.running().len(), 0);
        let pool = self.scheduler.kv().pool();
        assert_eq!(pool.num_available(), pool.num_blocks(), "no block is left behind");
    }
}
