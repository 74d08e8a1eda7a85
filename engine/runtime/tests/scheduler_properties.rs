//! The scheduler and the cache under random arrivals, cancels, memory pressure and shared prefixes.

#[path = "support/simulation.rs"]
mod simulation;

use ferrum_runtime::scheduler::{SchedulerConfig, SequenceId};
use proptest::prelude::*;
use simulation::{Simulation, VOCAB};

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
        ahead in 0..2_usize,
    ) {
        let mut simulation = Simulation::new(config);
        simulation.ahead = ahead;
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
fn a_step_is_decided_before_the_token_that_it_goes_on_from_is_known() {
    let mut simulation = Simulation::new(roomy());
    simulation.ahead = 1;
    simulation.submit(vec![3, 4], 3);
    simulation.step();
    assert_eq!(simulation.scheduler.running()[0].pending(), Some(0));
    assert!(simulation.live[&0].generated.is_empty());
    simulation.step();
    assert_eq!(simulation.live[&0].generated.len(), 1);
    // Its third token is under way, and there is no fourth: nothing is asked for.
    simulation.step();
    assert!(simulation.scheduler.schedule().is_empty());
    simulation.run_out();
    assert_eq!(simulation.finished, 1);
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
