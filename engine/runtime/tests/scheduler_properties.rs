//! The scheduler and the cache under random arrivals, cancels, memory pressure and shared prefixes.
//!
//! The device is a vector of slots. The next token is a hash of all tokens read back through the block
//! table, so that a wrong slot, a wrong block, a stale or an overwritten cache gives wrong tokens.

use std::collections::{HashMap, HashSet};

use ferrum_engine::{GenerateRequest, KvEvent, SamplingParams};
use ferrum_runtime::{
    block_pool::{BLOCK_SIZE, blocks_for},
    scheduler::{ScheduledBatch, Scheduler, SchedulerConfig, Sequence, SequenceId, max_cached_tokens},
};
use proptest::prelude::*;

/// Ids are below this, few enough that answers meet again.
const VOCAB: u32 = 40;
/// Ends a generation.
const STOP: u32 = 0;

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

#[derive(Clone, Debug)]
enum Action {
    Cancel(usize),
    Steps(usize),
    Submit {
        family: u32,
        shared: usize,
        own: usize,
        max_tokens: usize,
    },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let submit =
        (0..3_u32, 0..70_usize, 1..40_usize, 1..24_usize).prop_map(|(family, shared, own, max_tokens)| {
            Action::Submit {
                family,
                shared,
                own,
                max_tokens,
            }
        });
    let action = prop_oneof![
        4 => submit,
        3 => (1..6_usize).prop_map(Action::Steps),
        1 => any::<usize>().prop_map(Action::Cancel),
    ];
    prop::collection::vec(action, 1..60)
}

fn configs() -> impl Strategy<Value = SchedulerConfig> {
    (1..6_usize, 0..40_usize, 3..24_usize, any::<bool>()).prop_map(
        |(max_num_seqs, more_tokens, num_blocks, prefix_caching)| SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + more_tokens,
            num_blocks,
            prefix_caching,
        },
    )
}

struct Live {
    request: GenerateRequest,
    generated: Vec<u32>,
    /// The last step in which it may end.
    deadline: usize,
}

struct Simulation {
    config: SchedulerConfig,
    scheduler: Scheduler,
    slots: Vec<Option<u32>>,
    live: HashMap<SequenceId, Live>,
    cached: HashSet<u64>,
    next_id: SequenceId,
    step: usize,
    finished: usize,
}

impl Simulation {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            scheduler: Scheduler::new(config),
            slots: vec![None; config.num_blocks * BLOCK_SIZE],
            live: HashMap::new(),
            cached: HashSet::new(),
            next_id: 0,
            step: 0,
            finished: 0,
        }
    }

    fn submit(&mut self, prompt: Vec<u32>, max_tokens: usize) {
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
    fn longest_wait(&self) -> usize {
        let least_prefill = self.config.max_num_batched_tokens - (self.config.max_num_seqs - 1);
        let units =
            |live: &Live| live.request.prompt.len().div_ceil(least_prefill) + 1 + live.request.max_tokens;
        self.live.values().map(units).sum()
    }

    fn cancel(&mut self, pick: usize) {
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

    fn step(&mut self) {
        let batch = self.scheduler.schedule();
        self.scheduler.check_integrity().expect("sound after schedule");
        assert_eq!(
            batch.is_empty(),
            self.live.is_empty(),
            "there is a step exactly if there is work"
        );
        assert!(batch.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(batch.rows.len() <= self.config.max_num_seqs);
        let drawn = self.compute(&batch);
        let advances = self.scheduler.commit(&batch, &drawn);
        self.scheduler.check_integrity().expect("sound after commit");
        self.step += 1;
        for advance in advances {
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
        self.replay_events();
    }

    /// All writes first, then all reads, as a layer does.
    fn compute(&mut self, batch: &ScheduledBatch) -> Vec<u32> {
        for row in &batch.rows {
            let sequence = &self.scheduler.running()[row.index];
            for position in row.start..row.start + row.num_tokens {
                let slot = sequence.table().slot(position) as usize;
                self.slots[slot] = Some(sequence.tokens()[position]);
            }
        }
        let sampled = batch.rows.iter().filter(|row| row.samples);
        sampled
            .map(|row| {
                let sequence = &self.scheduler.running()[row.index];
                let slots = (0..row.start + row.num_tokens).map(|at| sequence.table().slot(at) as usize);
                next_token(slots.map(|slot| self.slots[slot].expect("written before it is read")))
            })
            .collect()
    }

    fn replay_events(&mut self) {
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

    fn run_out(&mut self) {
        while !self.live.is_empty() {
            self.step();
        }
        assert_eq!(self.scheduler.running().len(), 0);
        let pool = self.scheduler.kv().pool();
        assert_eq!(pool.num_available(), pool.num_blocks(), "no block is left behind");
    }
}

fn prompt(family: u32, shared: usize, own: usize, id: SequenceId) -> Vec<u32> {
    let shared = (0..shared).map(|at| (family * 7 + u32::try_from(at).expect("small") * 3) % VOCAB);
    let salt = u32::try_from(id).expect("few");
    let own = (0..own).map(|at| (salt * 11 + u32::try_from(at).expect("small")) % VOCAB);
    shared.chain(own).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_traffic_leaks_nothing_starves_nobody_and_changes_no_token(
        config in configs(),
        actions in actions(),
    ) {
        let mut simulation = Simulation::new(config);
        for action in actions {
            match action {
                Action::Cancel(pick) => simulation.cancel(pick),
                Action::Steps(count) => (0..count).for_each(|_| simulation.step()),
                Action::Submit { family, shared, own, max_tokens } => {
                    let prompt = prompt(family, shared, own, simulation.next_id);
                    simulation.submit(prompt, max_tokens);
                }
            }
        }
        simulation.run_out();
    }
}

fn roomy() -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        num_blocks: 64,
        prefix_caching: true,
    }
}

#[test]
fn a_second_request_computes_only_what_the_first_did_not() {
    let mut simulation = Simulation::new(roomy());
    simulation.submit((1..=40).collect(), 1);
    simulation.run_out();
    simulation.submit((1..=40).collect(), 1);
    let batch = simulation.scheduler.schedule();
    assert_eq!(batch.num_cached_tokens, 32);
    assert_eq!(batch.num_prefill_tokens, 8);
}

#[test]
fn the_last_token_of_a_prompt_is_computed_even_if_all_is_cached() {
    let mut simulation = Simulation::new(roomy());
    simulation.submit((1..=32).collect(), 1);
    simulation.run_out();
    simulation.submit((1..=32).collect(), 1);
    let batch = simulation.scheduler.schedule();
    assert_eq!(batch.num_cached_tokens, 16);
    assert_eq!(batch.num_prefill_tokens, 16);
}

#[test]
fn a_prompt_shares_what_another_computes_while_it_is_prefilled_itself() {
    let mut simulation = Simulation::new(SchedulerConfig {
        max_num_batched_tokens: 32,
        ..roomy()
    });
    let long: Vec<u32> = (0..96).map(|at| at % VOCAB).collect();
    simulation.submit(long.clone(), 1);
    simulation.submit(long, 1);
    let mut computed = 0;
    while !simulation.live.is_empty() {
        let batch = simulation.scheduler.schedule();
        computed += batch.num_prefill_tokens;
        let drawn = simulation.compute(&batch);
        for advance in simulation.scheduler.commit(&batch, &drawn) {
            simulation.live.remove(&advance.id);
        }
    }
    // The first computes 96, the second its last block.
    assert_eq!(computed, 96 + 16);
}

#[test]
fn a_shared_block_counts_once_at_admission() {
    // 4 blocks: the first request holds 3 (two full ones cached); the second shares 2 and needs 1 more.
    let config = SchedulerConfig {
        num_blocks: 4,
        ..roomy()
    };
    let mut simulation = Simulation::new(config);
    let prompt: Vec<u32> = (1..=33).collect();
    simulation.submit(prompt.clone(), 15);
    simulation.step();
    simulation.submit(prompt, 15);
    simulation.scheduler.schedule();
    assert_eq!(simulation.scheduler.running().len(), 2);
    assert_eq!(simulation.scheduler.kv().pool().num_available(), 0);
}

#[test]
fn decode_goes_first_and_a_long_prompt_fills_what_is_left() {
    let config = SchedulerConfig {
        max_num_seqs: 2,
        max_num_batched_tokens: 8,
        ..roomy()
    };
    let mut simulation = Simulation::new(config);
    simulation.submit(vec![3], 20);
    simulation.step();
    simulation.submit((1..=20).collect(), 1);
    let batch = simulation.scheduler.schedule();
    let shape: Vec<_> = batch
        .rows
        .iter()
        .map(|row| (row.start, row.num_tokens, row.samples))
        .collect();
    assert_eq!(shape, [(1, 1, true), (0, 7, false)]);
}

#[test]
fn a_later_small_request_does_not_overtake_one_that_waits_for_blocks() {
    let config = SchedulerConfig {
        num_blocks: 4,
        ..roomy()
    };
    let mut simulation = Simulation::new(config);
    simulation.submit(vec![5; 20], 20);
    simulation.step();
    simulation.submit(vec![6; 30], 30);
    simulation.submit(vec![7; 4], 2);
    simulation.step();
    assert_eq!(simulation.scheduler.running().len(), 1);
    assert_eq!(simulation.scheduler.num_waiting(), 2);
    simulation.run_out();
    assert_eq!(simulation.finished, 3);
}
