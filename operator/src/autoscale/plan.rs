//! From a decision to steps: replicas that are to go are told so first, and only go once they run nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::decide::{Decision, Why};

/// After so long every router has heard that a replica is to go, and its next report shows what still runs there.
const TOLD_AFTER: Duration = Duration::from_millis(1500);

/// How often it is looked whether a replica has finished.
const FINISHED_EVERY: Duration = Duration::from_secs(1);

/// An engine pod, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// Name of the pod.
    pub(crate) pod: String,
    /// Whether it answers.
    pub(crate) is_ready: bool,
    /// Whether it is marked as one that is to go.
    pub(crate) is_marked: bool,
    /// Requests that run there.
    pub(crate) running: u64,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Replicas to ask for.
    pub(crate) replicas: i32,
    /// Pods to mark as ones that are to go.
    pub(crate) mark: Vec<String>,
    /// Pods that are to stay after all.
    pub(crate) unmark: Vec<String>,
    /// When to look again.
    pub(crate) again_after: Option<Duration>,
    /// Replicas that are to go once they have finished.
    pub(crate) leaving: i32,
}

/// A number that the manifest gives, and how long replicas beyond it may take to finish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    pub(crate) wanted: i32,
    pub(crate) drain_timeout: Duration,
}

/// Plans the way from `current` replicas to those of `decision`; `marked` remembers since when pods are marked.
pub(crate) fn plan(
    decision: &Decision,
    current: i32,
    replicas: &[Replica],
    marked: &mut HashMap<String, Instant>,
    now: Instant,
) -> Plan {
    remember(replicas, marked, now);
    let removed = usize::try_from(current - decision.replicas).unwrap_or(0);
    let leaving = match removed {
        0 => Vec::new(),
        _ => leaving(replicas, removed),
    };
    let is_leaving = |replica: &Replica| leaving.contains(&replica.pod);
    let unmark = replicas
        .iter()
        .filter(|replica| replica.is_marked && !is_leaving(replica));
    let mut plan = Plan {
        replicas: decision.replicas,
        mark: Vec::new(),
        unmark: unmark.map(|replica| replica.pod.clone()).collect(),
        again_after: decision.again_after,
        leaving: 0,
    };
    if decision.why != Why::Idle || leaving.is_empty() {
        return plan;
    }
    let of_leaving = || replicas.iter().filter(|replica| is_leaving(replica));
    plan.mark = of_leaving()
        .filter(|replica| !replica.is_marked)
        .map(|replica| replica.pod.clone())
        .collect();
    let ready_at = of_leaving().map(|replica| marked.get(&replica.pod).map(|&since| since + TOLD_AFTER));
    // A pod that is not marked yet counts from now.
    let ready_at = ready_at
        .map(|at| at.unwrap_or(now + TOLD_AFTER))
        .max()
        .unwrap_or(now);
    if ready_at > now {
        plan.replicas = current;
        plan.leaving = current - decision.replicas;
        plan.again_after = Some(ready_at.duration_since(now));
    }
    plan
}

/// Plans the way from `current` replicas to those of the manifest: the ones that run least are told to go, and go when
/// they have finished or their time is over.
pub(crate) fn plan_fixed(
    fixed: Fixed,
    current: i32,
    replicas: &[Replica],
    marked: &mut HashMap<String, Instant>,
    now: Instant,
) -> Plan {
    remember(replicas, marked, now);
    let surplus = |of: i32| replicas.len() > usize::try_from(of).unwrap_or(0);
    // All of them go, or a change replaces some as well: there is nothing to choose.
    let leaving = match usize::try_from(current - fixed.wanted) {
        Ok(removed) if fixed.wanted > 0 && !surplus(current) => idlest(replicas, removed),
        _ => Vec::new(),
    };
    let is_leaving = |replica: &Replica| leaving.contains(&replica.pod);
    // A mark stays until a ReplicaSet has taken what is beyond its number.
    let unmark = replicas
        .iter()
        .filter(|replica| replica.is_marked && !is_leaving(replica) && !surplus(fixed.wanted));
    let mut plan = Plan {
        replicas: fixed.wanted,
        mark: Vec::new(),
        unmark: unmark.map(|replica| replica.pod.clone()).collect(),
        again_after: None,
        leaving: 0,
    };
    let pause = |replica: &Replica| {
        let since = marked.get(&replica.pod).copied().unwrap_or(now);
        let (told, end) = (since + TOLD_AFTER, since + fixed.drain_timeout);
        match replica.running {
            _ if now >= end => None,
            _ if now < told => Some(told.min(end) - now),
            0 => None,
            _ => Some(FINISHED_EVERY.min(end - now)),
        }
    };
    let of_leaving = || replicas.iter().filter(|replica| is_leaving(replica));
    plan.mark = of_leaving()
        .filter(|replica| !replica.is_marked)
        .map(|replica| replica.pod.clone())
        .collect();
    plan.again_after = of_leaving()
        .filter(|replica| replica.is_ready)
        .filter_map(pause)
        .max();
    if plan.again_after.is_some() {
        plan.replicas = current;
        plan.leaving = current - fixed.wanted;
    }
    plan
}

/// Since when pods are marked; this process may have started after the mark.
fn remember(replicas: &[Replica], marked: &mut HashMap<String, Instant>, now: Instant) {
    marked.retain(|pod, _| {
        replicas
            .iter()
            .any(|replica| replica.pod == *pod && replica.is_marked)
    });
    for replica in replicas.iter().filter(|replica| replica.is_marked) {
        marked.entry(replica.pod.clone()).or_insert(now);
    }
}

/// As [`leaving`], with busy pods behind idle ones.
fn idlest(replicas: &[Replica], removed: usize) -> Vec<String> {
    let mut all: Vec<_> = replicas.iter().enumerate().collect();
    all.sort_by_key(|(age, replica)| {
        let order = (replica.is_ready, !replica.is_marked, replica.running);
        (order, std::cmp::Reverse(*age))
    });
    all.into_iter()
        .take(removed)
        .map(|(_, replica)| replica.pod.clone())
        .collect()
}

/// The pods that a ReplicaSet takes first once they are marked: those that do not answer yet, then idle ones, those that
/// are marked already before others, and the youngest first.
fn leaving(replicas: &[Replica], removed: usize) -> Vec<String> {
    let mut idle: Vec<_> = replicas
        .iter()
        .enumerate()
        .filter(|(_, replica)| replica.running == 0)
        .collect();
    idle.sort_by_key(|(age, replica)| (replica.is_ready, !replica.is_marked, std::cmp::Reverse(*age)));
    idle.into_iter()
        .take(removed)
        .map(|(_, replica)| replica.pod.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(pod: &str, running: u64, is_marked: bool) -> Replica {
        Replica {
            pod: pod.to_owned(),
            is_ready: true,
            is_marked,
            running,
        }
    }

    fn down_to(replicas: i32) -> Decision {
        Decision {
            replicas,
            needed: replicas,
            why: Why::Idle,
            again_after: None,
        }
    }

    #[test]
    fn a_replica_is_marked_then_awaited_then_taken_away() {
        let (mut marked, now) = (HashMap::new(), Instant::now());
        let first = plan(
            &down_to(1),
            2,
            &[replica("a", 3, false), replica("b", 0, false)],
            &mut marked,
            now,
        );
        assert_eq!(
            (first.replicas, first.mark, first.again_after),
            (2, vec!["b".to_owned()], Some(TOLD_AFTER))
        );
        let replicas = [replica("a", 3, false), replica("b", 0, true)];
        let second = plan(&down_to(1), 2, &replicas, &mut marked, now);
        assert_eq!((second.replicas, second.mark.len()), (2, 0));
        let third = plan(&down_to(1), 2, &replicas, &mut marked, now + TOLD_AFTER);
        assert_eq!((third.replicas, third.unmark.len()), (1, 0));
    }

    #[test]
    fn of_a_fixed_number_the_idlest_replica_goes_when_it_has_finished_or_its_time_is_over() {
        let (mut marked, now) = (HashMap::new(), Instant::now());
        let drain_timeout = Duration::from_secs(30);
        let fixed = Fixed {
            wanted: 2,
            drain_timeout,
        };
        let mut all = [
            replica("a", 3, false),
            replica("b", 1, false),
            replica("c", 2, false),
        ];
        let first = plan_fixed(fixed, 3, &all, &mut marked, now);
        assert_eq!(
            (first.replicas, first.mark, first.leaving),
            (3, vec!["b".to_owned()], 1)
        );
        all[1].is_marked = true;
        plan_fixed(fixed, 3, &all, &mut marked, now);
        let told = now + TOLD_AFTER;
        let busy = plan_fixed(fixed, 3, &all, &mut marked, told);
        assert_eq!((busy.replicas, busy.again_after), (3, Some(FINISHED_EVERY)));
        let late = plan_fixed(fixed, 3, &all, &mut marked, now + drain_timeout);
        assert_eq!((late.replicas, late.leaving), (2, 0));
        all[1].running = 0;
        let idle = plan_fixed(fixed, 3, &all, &mut marked, told);
        assert_eq!((idle.replicas, idle.unmark.len()), (2, 0));
        // The Deployment has the new number, the pod is still there.
        let after = plan_fixed(fixed, 2, &all, &mut marked, told);
        assert_eq!((after.replicas, after.unmark.len()), (2, 0));
        let back = Fixed { wanted: 3, ..fixed };
        assert_eq!(plan_fixed(back, 2, &all, &mut marked, told).unmark, ["b"]);
    }

    #[test]
    fn a_model_that_is_stopped_or_replaced_is_not_kept_waiting() {
        let (mut marked, now) = (HashMap::new(), Instant::now());
        let all = [replica("a", 3, false), replica("b", 1, false)];
        for (wanted, current) in [(0, 2), (1, 1), (2, 1)] {
            let fixed = Fixed {
                wanted,
                drain_timeout: Duration::from_secs(30),
            };
            let plan = plan_fixed(fixed, current, &all, &mut marked, now);
            assert_eq!((plan.replicas, plan.mark.len(), plan.leaving), (wanted, 0, 0));
        }
    }

    #[test]
    fn a_marked_replica_that_is_needed_again_stays() {
        let (mut marked, now) = (HashMap::new(), Instant::now());
        let up = Decision {
            replicas: 2,
            needed: 2,
            why: Why::Busy,
            again_after: None,
        };
        let plan = plan(
            &up,
            2,
            &[replica("a", 0, false), replica("b", 0, true)],
            &mut marked,
            now,
        );
        assert_eq!((plan.replicas, plan.unmark), (2, vec!["b".to_owned()]));
    }

    #[test]
    fn a_replica_that_does_not_answer_yet_goes_first() {
        let mut starting = replica("c", 0, false);
        starting.is_ready = false;
        let all = [replica("a", 0, false), starting, replica("b", 0, false)];
        assert_eq!(leaving(&all, 2), ["c", "b"]);
    }
}
