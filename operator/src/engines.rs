//! What engines say of themselves while they start: phases, the model's card, and when. Jobs that fetch weights say how
//! far they are in the same words.
//!
//! A stream lasts until the engine is ready and its card is known; then there is nothing more to learn from it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ferrum_api::telemetry::{
    ModelCard, PhaseChange, WatchRequest, phase_change::Phase, telemetry_client::TelemetryClient,
    telemetry_event::Event,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use prometheus::IntGauge;
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;

use crate::autoscale::Counted;

/// Longest time for a connection and for a first message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));
/// A stream that lived for so long was a good one: the next try is made at once.
const GOOD_STREAM: Duration = Duration::from_secs(5);
/// Progress within a phase is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// One run of an engine's container: the pod's uid and how often it was restarted.
pub(crate) type RunKey = (String, i32);

/// Follows engines.
pub(crate) struct Engines {
    runs: Mutex<HashMap<RunKey, Run>>,
    identity: String,
    streams: IntGauge,
}

struct Run {
    facts: Arc<Mutex<EngineFacts>>,
    task: AbortHandle,
}

/// What one engine told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EngineFacts {
    /// The phase it is in.
    pub(crate) phase: Option<PhaseChange>,
    /// When it was first seen in each phase.
    pub(crate) since: Vec<(Phase, Timestamp)>,
    /// Its model.
    pub(crate) card: Option<ModelCard>,
}

impl Engines {
    pub(crate) fn new(identity: &str, streams: &IntGauge) -> Self {
        Self {
            runs: Mutex::default(),
            identity: identity.to_owned(),
            streams: streams.clone(),
        }
    }

    /// Follows `pod` unless that is done already; `changed` is called when it has said something new.
    pub(crate) fn follow(&self, pod: &Pod, changed: impl Fn() + Send + 'static) {
        let (Some(key), Some(address)) = (run_key(pod), address_of(pod)) else {
            return;
        };
        let mut runs = self.lock();
        if runs.contains_key(&key) {
            return;
        }
        let facts = Arc::new(Mutex::new(EngineFacts::default()));
        let listener = Listener {
            facts: Arc::clone(&facts),
            identity: self.identity.clone(),
            streams: self.streams.clone(),
            changed: Box::new(changed),
            told: None,
        };
        let task = tokio::spawn(listener.listen(address)).abort_handle();
        runs.insert(key, Run { facts, task });
    }

    /// What `pod`'s engine told.
    pub(crate) fn facts(&self, pod: &Pod) -> Option<EngineFacts> {
        let key = run_key(pod)?;
        let runs = self.lock();
        let facts = runs
            .get(&key)?
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(facts.clone())
    }

    /// Stops following everything that is not among `alive`.
    pub(crate) fn retain(&self, alive: &HashSet<RunKey>) {
        self.lock().retain(|key, run| {
            let stays = alive.contains(key);
            if !stays {
                run.task.abort();
            }
            stays
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunKey, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` while the engine's container does not run.
pub(crate) fn run_key(pod: &Pod) -> Option<RunKey> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.running.as_ref()?;
    Some((pod.metadata.uid.clone()?, container.restart_count))
}

fn address_of(pod: &Pod) -> Option<String> {
    let ip = pod
        .status
        .as_ref()?
        .pod_ip
        .as_deref()
        .filter(|ip| !ip.is_empty())?;
    let port = ferrum_crds::names::ENGINE_PORT;
    Some(if ip.contains(':') {
        format!("http://[{ip}]:{port}")
    } else {
        format!("http://{ip}:{port}")
    })
}

struct Listener {
    facts: Arc<Mutex<EngineFacts>>,
    identity: String,
    streams: IntGauge,
    changed: Box<dyn Fn() + Send>,
    told: Option<Instant>,
}

impl Listener {
    async fn listen(mut self, address: String) {
        let mut backoff = BACKOFF.0;
        loop {
            let opened = Instant::now();
            match self.follow(&address).await {
                Ok(()) if self.is_complete() => return,
                Ok(()) => {}
                Err(error) => tracing::debug!(address, %error, "no telemetry of an engine"),
            }
            if opened.elapsed() > GOOD_STREAM {
                backoff = BACKOFF.0;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn follow(&mut self, address: &str) -> Result<(), tonic::Status> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
            .connect_timeout(ANSWER_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request = WatchRequest {
            router_id: self.identity.clone(),
            kv_blocks: false,
        };
        let mut stream = timeout(ANSWER_TIMEOUT, TelemetryClient::new(channel).watch(request))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer"))??
            .into_inner();
        let _counted = Counted::new(&self.streams);
        while let Some(message) = stream.message().await? {
            let is_new = match message.event {
                Some(Event::Phase(change)) => self.hear_phase(change),
                Some(Event::Card(card)) => {
                    self.facts().card = Some(card);
                    true
                }
                _ => false,
            };
            if is_new {
                self.told = Some(Instant::now());
                (self.changed)();
            }
            if self.is_complete() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the operator should know at once.
    fn hear_phase(&mut self, change: PhaseChange) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY);
        let mut facts = self.facts();
        let phase = change.phase();
        let is_new = facts.phase.as_ref().is_none_or(|before| before.phase() != phase);
        if !facts.since.iter().any(|(seen, _)| *seen == phase) {
            facts.since.push((phase, Timestamp::now()));
        }
        facts.phase = Some(change);
        is_new || is_due
    }

    fn is_complete(&self) -> bool {
        let facts = self.facts();
        let is_ready = facts
            .phase
            .as_ref()
            .is_some_and(|change| change.phase() == Phase::Ready);
        is_ready && facts.card.is_some()
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, EngineFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
