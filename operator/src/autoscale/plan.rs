//! From a decision to steps: replicas that are to go are told so first, and only go once they run nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::decide::{Decision, Why};

/// After so long every router has heard that a replica is to go, and its next report shows what still runs there.
const TOLD_AFTER: Duration = Duration::from_millis(1500);

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
}

/// Plans the way from `current` replicas to those of `decision`; `marked` remembers since when pods are marked.
pub(crate) fn plan(
    decision: &Decision,
    current: i32,
    replicas: &[Replica],
    marked: &mut HashMap<String, Instant>,
    now: Instant,
) -> Plan {
    marked.retain(|pod, _| {
        replicas
            .iter()
            .any(|replica| replica.pod == *pod && replica.is_marked)
    });
    for replica in replicas.iter().filter(|replica| replica.is_marked) {
        marked.entry(replica.pod.clone()).or_insert(now);
    }
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
        plan.again_after = Some(ready_at.duration_since(now));
    }
    plan
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
