//! One model: its replicas, its queue, and the choice among the replicas.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ferrum_engine::{Phase, Task};
use tokio::sync::Notify;

use super::{
    health::Verdict,
    queue::WaitQueue,
    replica::{InFlight, Replica},
};
use crate::policy::{Demand, Policy};

/// Completion length that is assumed until one was seen, in tokens.
const FIRST_MEAN_COMPLETION: u64 = 128;
/// A new completion moves the mean by one part in so many.
const MEAN_WEIGHT: u64 = 16;

/// A model as the last snapshot has it. A new snapshot makes a new value; [`Shared`] goes on.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) served_names: Vec<String>,
    pub(crate) task: Task,
    pub(crate) message: Option<String>,
    pub(crate) phase: Option<String>,
    pub(crate) replicas: Vec<Arc<Replica>>,
    pub(crate) shared: Arc<Shared>,
}

/// What lives as long as the model does, whatever its replicas.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: Arc<WaitQueue>,
    /// On all its replicas, also on those that are gone from the list.
    pub(crate) running: Running,
    pub(crate) created_seconds: u64,
    /// Mean completion length in tokens, times [`MEAN_WEIGHT`].
    mean_completion: AtomicU64,
    turn: AtomicUsize,
    /// Held from the look at the loads until the choice is counted.
    choosing: Mutex<()>,
}

/// Requests that were sent to a replica and are not over.
#[derive(Debug, Default)]
pub(crate) struct Running {
    requests: AtomicU64,
    tokens: AtomicU64,
}

/// Why no replica was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// The only ones that could take it have failed it already.
    AllTried,
    /// Those that are ready are full.
    Full,
    /// None is ready.
    NotReady,
}

impl Running {
    pub(super) fn add(&self, demand: Demand) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_add(demand.tokens(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, demand: Demand) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.tokens.fetch_sub(demand.tokens(), Ordering::Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// `begun` is told when a request is held and none was before.
    pub(crate) fn new(queue_limit: usize, begun: Arc<Notify>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            queue: Arc::new(WaitQueue::new(queue_limit, begun)),
            running: Running::default(),
            created_seconds: now.as_secs(),
            mean_completion: AtomicU64::new(FIRST_MEAN_COMPLETION * MEAN_WEIGHT),
            // Routers that begin together must not take turns in step.
            turn: AtomicUsize::new(uuid::Uuid::new_v4().as_u128() as usize),
            choosing: Mutex::new(()),
        }
    }

    /// Running mean of the completion length, in tokens.
    pub(crate) fn mean_completion(&self) -> u64 {
        self.mean_completion.load(Ordering::Relaxed) / MEAN_WEIGHT
    }

    /// A completion had so many tokens. A lost update among simultaneous ones does no harm to a mean.
    pub(crate) fn saw_completion(&self, tokens: u64) {
        let scaled = self.mean_completion.load(Ordering::Relaxed);
        let moved = scaled - scaled / MEAN_WEIGHT + tokens.min(1 << 32);
        self.mean_completion.store(moved, Ordering::Relaxed);
    }
}

impl Model {
    /// Chooses a replica for a request among those that `may_use` allows, and counts the request there.
    pub(crate) fn choose(
        &self,
        policy: &dyn Policy,
        (served_name, demand): (&str, Demand),
        may_use: impl Fn(&Replica) -> bool,
    ) -> Result<InFlight, NoChoice> {
        let now = Instant::now();
        let _choosing = self
            .shared
            .choosing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut reason = NoChoice::NotReady;
        let mut candidates = Vec::with_capacity(self.replicas.len());
        let mut replicas = Vec::with_capacity(self.replicas.len());
        for replica in &self.replicas {
            match replica.candidate(now, served_name) {
                Ok(_) if !may_use(replica) => reason = NoChoice::AllTried,
                Ok(candidate) => {
                    candidates.push(candidate);
                    replicas.push(replica);
                }
                Err(Verdict::Full) if reason == NoChoice::NotReady => reason = NoChoice::Full,
                Err(_) => {}
            }
        }
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        match policy.choose(&candidates, turn) {
            Some(chosen) => Ok(replicas[chosen].reserve(demand, now)),
            None => Err(reason),
        }
    }

    /// Whether a replica that becomes ready would answer to this name.
    pub(crate) fn may_answer_to(&self, served_name: &str) -> bool {
        self.replicas.is_empty()
            || self
                .replicas
                .iter()
                .any(|replica| replica.answers_to(served_name))
    }

    /// Whether it is known of every replica if it is ready, or why not.
    pub(crate) fn is_explored(&self) -> bool {
        let mut replicas = self.replicas.iter();
        replicas.all(|replica| replica.is_draining() || replica.with_health(|health| health.is_explored()))
    }

    /// Replicas that take requests now, or are full with them.
    pub(crate) fn ready(&self) -> usize {
        let now = Instant::now();
        self.replicas
            .iter()
            .filter(|replica| replica.verdict(now) != Verdict::NotReady)
            .count()
    }

    /// Where its replicas stand, for a person: the phase of the one that is furthest.
    pub(crate) fn phase_text(&self) -> String {
        let furthest = self.replicas.iter().map(|replica| {
            if replica.is_draining() {
                return Phase::Draining;
            }
            replica.with_health(|health| match health.phase() {
                Phase::Ready if !health.is_reachable() => Phase::Starting,
                phase => phase.clone(),
            })
        });
        match (furthest.max_by_key(progress), &self.phase) {
            (None | Some(Phase::Starting | Phase::Draining), Some(phase)) => phase.clone(),
            (None, None) => "starting: no replica yet".to_owned(),
            (Some(phase), _) => describe(&phase),
        }
    }
}

/// Order of phases on the way to an answer.
fn progress(phase: &Phase) -> u8 {
    match phase {
        Phase::Failed { .. } => 0,
        Phase::Draining => 1,
        Phase::Starting => 2,
        Phase::Fetching { .. } => 3,
        Phase::Loading { .. } => 4,
        Phase::Warming => 5,
        Phase::Ready => 6,
    }
}

/// `8.1 GB`, `270 MB`.
fn bytes(count: u64) -> String {
    if count >= 1_000_000_000 {
        format!("{:.1} GB", count as f64 / 1e9)
    } else {
        format!("{} MB", count / 1_000_000)
    }
}

/// A phase in words: `loading: 120 of 272 tensors`.
pub(crate) fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Draining => "draining".to_owned(),
        Phase::Failed { message } => format!("failed: {message}"),
        Phase::Fetching {
            done_bytes,
            total_bytes: 0,
        } => format!("weights: {}", bytes(*done_bytes)),
        Phase::Fetching {
            done_bytes,
            total_bytes,
        } => {
            let percent = done_bytes.saturating_mul(100) / total_bytes;
            format!("weights: {percent} % of {}", bytes(*total_bytes))
        }
        Phase::Loading { total: 0, .. } => "loading".to_owned(),
        Phase::Loading { done, total } => format!("loading: {done} of {total} tensors"),
        Phase::Ready => "ready".to_owned(),
        Phase::Starting => "starting".to_owned(),
        Phase::Warming => "warming up".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_the_completions_and_starts_at_a_guess() {
        let shared = Shared::new(1, Arc::default());
        assert_eq!(shared.mean_completion(), FIRST_MEAN_COMPLETION);
        for _ in 0..200 {
            shared.saw_completion(10);
        }
        assert_eq!(shared.mean_completion(), 10);
    }

    #[test]
    fn phases_are_told_in_words() {
        assert_eq!(
            describe(&Phase::Loading {
                done: 120,
                total: 272
            }),
            "loading: 120 of 272 tensors"
        );
        let fetching = |done_bytes, total_bytes| {
            describe(&Phase::Fetching {
                done_bytes,
                total_bytes,
            })
        };
        assert_eq!(fetching(3_500_000_000, 8_100_000_000), "weights: 43 % of 8.1 GB");
        assert_eq!(fetching(27_000_000, 270_000_000), "weights: 10 % of 270 MB");
        assert_eq!(fetching(5_000_000, 0), "weights: 5 MB");
    }
}
