//! One engine process as the router knows it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use ferrum_api::telemetry::{Load, ModelCard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    health::{Health, RefusalKind, Verdict},
    model::Shared,
};
use crate::{
    config::TelemetryConfig,
    policy::{Candidate, Demand},
    proxy::Upstream,
};

/// A replica: its address, its connections, what it told and what is in flight on it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: String,
    pub(crate) upstream: Upstream,
    draining: AtomicBool,
    prompts_in_flight: AtomicU64,
    tokens_in_flight: AtomicU64,
    requests_in_flight: AtomicU64,
    told: Mutex<Told>,
    doubt: Notify,
    /// Its model's.
    shared: Arc<Shared>,
    times: TelemetryConfig,
}

#[derive(Debug)]
struct Told {
    health: Health,
    card: Option<ModelCard>,
    load: Load,
    foreign_tokens: u64,
    vanished: CancellationToken,
}

impl Replica {
    pub(crate) fn new(id: String, upstream: Upstream, shared: Arc<Shared>, times: TelemetryConfig) -> Self {
        Self {
            id,
            upstream,
            draining: AtomicBool::new(false),
            prompts_in_flight: AtomicU64::new(0),
            tokens_in_flight: AtomicU64::new(0),
            requests_in_flight: AtomicU64::new(0),
            told: Mutex::new(Told {
                health: Health::new(),
                card: None,
                load: Load::default(),
                foreign_tokens: 0,
                vanished: CancellationToken::new(),
            }),
            doubt: Notify::new(),
            shared,
            times,
        }
    }

    /// Whether a request may go there now.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        if self.draining.load(Ordering::Relaxed) {
            return Verdict::NotReady;
        }
        self.told().health.verdict(now, &self.times)
    }

    /// Whether it takes requests, or is full with them.
    pub(crate) fn is_ready(&self) -> bool {
        self.verdict(Instant::now()) != Verdict::NotReady
    }

    /// Whether it answers to this OpenAI `model`, as far as it has told. A process that does not was started before the
    /// names were changed, or is another one at the address of one that is gone.
    pub(crate) fn answers_to(&self, served_name: &str) -> bool {
        self.told().answers_to(served_name)
    }

    /// What a policy wants to know, of a replica that is routable for this OpenAI `model`.
    pub(crate) fn candidate(&self, now: Instant, served_name: &str) -> Result<Candidate, Verdict> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Verdict::NotReady);
        }
        let told = self.told();
        if !told.answers_to(served_name) {
            return Err(Verdict::NotReady);
        }
        match told.health.verdict(now, &self.times) {
            Verdict::Routable(standing) => Ok(Candidate {
                tokens_in_flight: self.tokens_in_flight(),
                foreign_tokens: told.foreign_tokens,
                standing,
            }),
            other => Err(other),
        }
    }

    /// Counts a request on it, from now until the returned guard is dropped.
    pub(crate) fn reserve(self: &Arc<Self>, demand: Demand, now: Instant) -> InFlight {
        self.prompts_in_flight.fetch_add(demand.prompt, Ordering::Relaxed);
        self.tokens_in_flight
            .fetch_add(demand.tokens(), Ordering::Relaxed);
        self.requests_in_flight.fetch_add(1, Ordering::Relaxed);
        self.shared.running.add(demand);
        self.told().health.chosen(now);
        InFlight {
            replica: self.clone(),
            demand,
        }
    }

    /// Tokens of requests that were sent there and are not over.
    pub(crate) fn tokens_in_flight(&self) -> u64 {
        self.tokens_in_flight.load(Ordering::Relaxed)
    }

    /// Requests that were sent there and are not over.
    pub(crate) fn requests_in_flight(&self) -> u64 {
        self.requests_in_flight.load(Ordering::Relaxed)
    }

    /// Cancelled when the replica is taken for vanished: nothing that waits for it will be answered.
    pub(crate) fn vanished(&self) -> CancellationToken {
        self.told().vanished.clone()
    }

    /// The load that it told last.
    pub(crate) fn load(&self) -> Load {
        self.told().load
    }

    /// Most tokens of a sequence, as its model card says.
    pub(crate) fn max_model_len(&self) -> Option<u64> {
        self.told().card.as_ref().map(|card| card.max_model_len)
    }

    /// A look at what is believed of it.
    pub(crate) fn with_health<T>(&self, look: impl FnOnce(&Health) -> T) -> T {
        look(&self.told().health)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self) {
        self.told().health.succeeded(Instant::now());
    }

    pub(crate) fn failed(&self) {
        self.told().health.failed(Instant::now());
    }

    /// No connection could be opened: whoever listens to it finds out whether it is still there.
    pub(crate) fn not_connected(&self) {
        self.told().health.not_connected(Instant::now());
        self.doubt.notify_one();
    }

    /// Waits until somebody doubts that it is still there.
    pub(crate) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    pub(crate) fn refused(&self, kind: RefusalKind) {
        self.told().health.refused(Instant::now(), kind);
    }

    /// Notes what telemetry brought, and wakes whoever waits for a change.
    pub(crate) fn hear(&self, change: impl FnOnce(&mut Health)) {
        {
            let mut told = self.told();
            change(&mut told.health);
            if told.vanished.is_cancelled() && told.health.is_reachable() {
                told.vanished = CancellationToken::new();
            }
        }
        self.shared.queue.wake_all();
    }

    pub(crate) fn hear_card(&self, card: ModelCard) {
        self.told().card = Some(card);
    }

    /// `mean_completion` turns requests of others into tokens.
    pub(crate) fn hear_load(&self, load: Load, mean_completion: u64) {
        let foreign_requests =
            (load.waiting_requests + load.running_requests).saturating_sub(self.requests_in_flight());
        // What is queued there belongs to this router first; only the rest is others'.
        let own_prefill = self.prompts_in_flight.load(Ordering::Relaxed);
        let foreign_prefill = load.queued_prefill_tokens.saturating_sub(own_prefill);
        {
            let mut told = self.told();
            told.foreign_tokens =
                foreign_prefill.saturating_add(foreign_requests.saturating_mul(mean_completion));
            told.load = load;
        }
        self.shared.queue.wake_head();
    }

    /// It neither answers nor refuses: moves the requests that wait for it.
    pub(crate) fn vanish(&self) {
        let vanished = {
            let mut told = self.told();
            told.health.connection_refused();
            told.vanished.clone()
        };
        vanished.cancel();
        self.shared.queue.wake_all();
    }

    /// Nothing in a poisoned lock is half-written: every change is a plain assignment.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn answers_to(&self, served_name: &str) -> bool {
        let names = self.card.as_ref().map_or(&[][..], |card| &card.served_names);
        names.is_empty() || names.iter().any(|name| name == served_name)
    }
}

/// A request counted on a replica; dropping it, in whatever way, takes it off again.
#[derive(Debug)]
pub(crate) struct InFlight {
    replica: Arc<Replica>,
    demand: Demand,
}

impl InFlight {
    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let replica = &self.replica;
        replica
            .prompts_in_flight
            .fetch_sub(self.demand.prompt, Ordering::Relaxed);
        replica
            .tokens_in_flight
            .fetch_sub(self.demand.tokens(), Ordering::Relaxed);
        replica.requests_in_flight.fetch_sub(1, Ordering::Relaxed);
        replica.shared.running.remove(self.demand);
        replica.told().health.released();
        replica.shared.queue.wake_head();
    }
}
