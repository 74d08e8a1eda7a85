//! Decisions by example and by random histories.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::decide::{Bounds, Capacity, Decision, History, Load, Observation, Why, decide};

const DELAY: Duration = Duration::from_secs(60);

fn bounds(min: i32, max: i32) -> Bounds {
    Bounds {
        min,
        max,
        utilization: 0.8,
        waiting_tokens: 1000,
        scale_down_delay: DELAY,
    }
}

fn at(now: Instant, current: i32, load: Load) -> Observation {
    let capacity = Capacity {
        requests: Some(10),
        tokens: Some(10_000),
    };
    Observation {
        now,
        current: Some(current),
        idle: current,
        load: Some(load),
        capacity,
    }
}

fn held(requests: u64, tokens: u64) -> Load {
    Load {
        held_requests: requests,
        held_tokens: tokens,
        requests_total: requests,
        ..Load::default()
    }
}

fn running(requests: u64) -> Load {
    Load {
        running_requests: requests,
        running_tokens: requests * 100,
        requests_total: requests,
        ..Load::default()
    }
}

fn once(bounds: &Bounds, seen: &Observation) -> Decision {
    decide(bounds, seen, &mut History::default())
}

#[test]
fn a_stopped_model_starts_for_its_first_held_request() {
    let decision = once(&bounds(0, 4), &at(Instant::now(), 0, held(1, 20)));
    assert_eq!((decision.replicas, decision.why), (1, Why::Held));
}

#[test]
fn a_stopped_model_stays_stopped_while_nobody_asks() {
    let decision = once(&bounds(0, 4), &at(Instant::now(), 0, Load::default()));
    assert_eq!((decision.replicas, decision.again_after), (0, None));
}

#[test]
fn tokens_that_wait_add_replicas_at_once() {
    let decision = once(&bounds(1, 8), &at(Instant::now(), 1, held(3, 2500)));
    assert_eq!((decision.replicas, decision.why), (3, Why::Waiting));
}

#[test]
fn the_capacity_in_use_adds_replicas_within_the_bounds() {
    let now = Instant::now();
    // 20 requests on replicas that take 10 each, to be used to 80 %: 2.5.
    assert_eq!(once(&bounds(1, 8), &at(now, 2, running(20))).replicas, 3);
    let decision = once(&bounds(1, 2), &at(now, 2, running(200)));
    assert_eq!((decision.replicas, decision.why), (2, Why::Bounds));
}

#[test]
fn fewer_replicas_wait_for_the_delay_and_then_go_to_the_most_that_was_needed() {
    let (bounds, mut history, start) = (bounds(0, 8), History::default(), Instant::now());
    assert_eq!(
        decide(&bounds, &at(start, 4, running(32)), &mut history).replicas,
        4
    );
    let later = start + Duration::from_secs(30);
    let decision = decide(&bounds, &at(later, 4, running(9)), &mut history);
    assert_eq!((decision.replicas, decision.why), (4, Why::Cooling));
    assert_eq!(decision.again_after, Some(Duration::from_secs(30)));
    let decision = decide(&bounds, &at(start + DELAY, 4, running(0)), &mut history);
    assert_eq!((decision.replicas, decision.why), (2, Why::Idle));
    assert_eq!(decision.again_after, Some(Duration::from_secs(30)));
    let end = start + DELAY * 2 + Duration::from_secs(1);
    assert_eq!(
        decide(&bounds, &at(end, 2, Load::default()), &mut history).replicas,
        0
    );
}

#[test]
fn only_replicas_that_run_nothing_are_taken_away() {
    let (bounds, mut history, start) = (bounds(1, 8), History::default(), Instant::now());
    decide(&bounds, &at(start, 4, running(2)), &mut history);
    let mut seen = at(start + DELAY, 4, running(2));
    seen.idle = 0;
    let decision = decide(&bounds, &seen, &mut history);
    assert_eq!((decision.replicas, decision.why), (4, Why::Draining));
    seen.idle = 2;
    assert_eq!(decide(&bounds, &seen, &mut history).replicas, 2);
}

#[test]
fn requests_too_short_to_be_seen_keep_the_last_replica() {
    let (bounds, mut history, start) = (bounds(0, 8), History::default(), Instant::now());
    for step in 0..20 {
        let load = Load {
            requests_total: step,
            ..Load::default()
        };
        let seen = at(
            start + Duration::from_secs(10) * u32::try_from(step).expect("small"),
            1,
            load,
        );
        assert_eq!(decide(&bounds, &seen, &mut history).replicas, 1, "step {step}");
    }
}

#[test]
fn a_router_that_is_heard_again_starts_no_stopped_model() {
    let (bounds, mut history, start) = (bounds(0, 8), History::default(), Instant::now());
    decide(&bounds, &at(start, 0, Load::default()), &mut history);
    let load = Load {
        requests_total: 500,
        ..Load::default()
    };
    let later = start + Duration::from_secs(20);
    assert_eq!(decide(&bounds, &at(later, 0, load), &mut history).replicas, 0);
}

#[test]
fn without_a_router_everything_stays_within_the_bounds() {
    let mut seen = at(Instant::now(), 3, Load::default());
    seen.load = None;
    let decision = once(&bounds(0, 8), &seen);
    assert_eq!((decision.replicas, decision.why), (3, Why::Unknown));
    assert_eq!(once(&bounds(4, 8), &seen).replicas, 4);
    seen.current = None;
    assert_eq!(once(&bounds(0, 8), &seen).replicas, 0);
}

prop_compose! {
    fn any_load()(held in 0u64..50, running in 0u64..200, tokens in 0u64..5000, total in 0u64..1000) -> Load {
        Load {
            held_requests: held,
            held_tokens: held * tokens,
            running_requests: running,
            running_tokens: running * tokens,
            requests_total: total,
        }
    }
}

proptest! {
    #[test]
    fn random_histories_keep_the_promises(
        min in 0i32..4,
        more in 1i32..8,
        delay in 0u64..100,
        steps in prop::collection::vec((proptest::option::weighted(0.9, any_load()), 0u64..40, 0i32..12), 1..60),
    ) {
        let bounds = Bounds { scale_down_delay: Duration::from_secs(delay), ..bounds(min, min + more) };
        let (mut history, mut now, mut current) = (History::default(), Instant::now(), None);
        let mut needed_at: Vec<(Instant, i32)> = Vec::new();
        for (load, pause, idle) in steps {
            now += Duration::from_secs(pause);
            let mut seen = at(now, 0, Load::default());
            (seen.current, seen.load, seen.idle) = (current, load, idle);
            let decision = decide(&bounds, &seen, &mut history);
            prop_assert!((bounds.min..=bounds.max).contains(&decision.replicas));
            if load.is_some_and(|load| load.held_requests > 0) {
                prop_assert!(decision.replicas >= 1, "held requests and no replica");
            }
            if load.is_some() {
                needed_at.push((now, decision.needed));
                prop_assert!(decision.replicas >= decision.needed);
            }
            if let Some(current) = current.filter(|&current| decision.replicas < current) {
                let most = needed_at
                    .iter()
                    .filter(|(at, _)| now.duration_since(*at) < bounds.scale_down_delay)
                    .map(|&(_, needed)| needed)
                    .max();
                prop_assert!(decision.replicas >= most.unwrap_or(0), "went below what was needed lately");
                prop_assert!(current - decision.replicas <= idle, "took away replicas that run something");
                prop_assert!(now.duration_since(needed_at[0].0) >= bounds.scale_down_delay);
            }
            prop_assert!(history_is_bounded(&history));
            current = Some(decision.replicas);
        }
    }
}

fn history_is_bounded(history: &History) -> bool {
    format!("{history:?}").matches("Instant").count() <= 64
}
