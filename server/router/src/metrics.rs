//! What the router counts. Labels are names from the snapshot, routes and statuses: a client cannot make new ones.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, exponential_buckets,
};

use crate::fleet::{Fleet, Table};

/// Models and replicas beyond so many have no series of their own.
const MAX_LABELS: usize = 1_000;
/// Stands for a model that is unknown, or one too many.
const OTHER: &str = "other";

/// The counters of one router.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    model_labels: Mutex<HashSet<String>>,
    requests: IntCounterVec,
    durations: HistogramVec,
    waits: Histogram,
    replicas: IntGaugeVec,
    waiting: IntGaugeVec,
    in_flight_requests: IntGaugeVec,
    in_flight_tokens: IntGaugeVec,
    told_prefill_tokens: IntGaugeVec,
    pub(crate) retries: IntCounterVec,
    pub(crate) broken_streams: IntCounter,
    pub(crate) disconnects: IntCounter,
    pub(crate) endpoints_errors: IntCounter,
    pub(crate) keys_errors: IntCounter,
}

/// A request that is being answered; dropped unfinished, its client has gone.
pub(crate) struct Observed {
    metrics: Arc<Metrics>,
    route: &'static str,
    model: Option<String>,
    began: Instant,
    is_finished: bool,
}

impl Metrics {
    /// # Errors
    /// Never with the names below; a test makes one.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let seconds = exponential_buckets(0.001, 2.0, 18)?;
        let durations = HistogramOpts::new(
            "ferrum_router_request_duration_seconds",
            "Time until an answer was complete, or its first event there",
        );
        let waits = HistogramOpts::new(
            "ferrum_router_queue_wait_seconds",
            "Time that requests waited for a replica, of those that did",
        );
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let counter = |name: &str, help: &str| IntCounter::new(name, help);
        let metrics = Self {
            registry: Registry::new(),
            model_labels: Mutex::default(),
            requests: IntCounterVec::new(
                Opts::new("ferrum_router_requests_total", "Requests answered"),
                &["route", "model", "status"],
            )?,
            durations: HistogramVec::new(durations.buckets(seconds.clone()), &["route"])?,
            waits: Histogram::with_opts(waits.buckets(seconds))?,
            replicas: gauge(
                "ferrum_router_replicas",
                "Replicas of a model",
                &["model", "state"],
            )?,
            waiting: gauge(
                "ferrum_router_waiting_requests",
                "Requests that wait for a replica",
                &["model"],
            )?,
            in_flight_requests: gauge(
                "ferrum_router_in_flight_requests",
                "Requests on a replica",
                &["replica"],
            )?,
            in_flight_tokens: gauge(
                "ferrum_router_in_flight_tokens",
                "Estimated tokens of the requests on a replica",
                &["replica"],
            )?,
            told_prefill_tokens: gauge(
                "ferrum_router_replica_queued_prefill_tokens",
                "Prompt tokens not computed yet, as the replica told last",
                &["replica"],
            )?,
            retries: IntCounterVec::new(
                Opts::new("ferrum_router_retries_total", "Requests moved to another replica"),
                &["reason"],
            )?,
            broken_streams: counter(
                "ferrum_router_broken_streams_total",
                "Streams that a replica broke off after they had begun",
            )?,
            disconnects: counter(
                "ferrum_router_client_disconnects_total",
                "Requests whose client went away before the end",
            )?,
            endpoints_errors: counter(
                "ferrum_router_endpoints_errors_total",
                "Times that the list of replicas could not be read",
            )?,
            keys_errors: counter(
                "ferrum_router_keys_errors_total",
                "Times that the file of API keys could not be read",
            )?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    /// Begins to observe a request.
    pub(crate) fn observe(self: &Arc<Self>, route: &'static str) -> Observed {
        Observed {
            metrics: self.clone(),
            route,
            model: None,
            began: Instant::now(),
            is_finished: false,
        }
    }

    /// A request waited for a replica.
    pub(crate) fn saw_wait(&self, time: Duration) {
        self.waits.observe(time.as_secs_f64());
    }

    /// Everything, in Prometheus' text format.
    ///
    /// # Errors
    /// What the encoder says.
    pub(crate) fn render(&self, fleet: &Fleet) -> prometheus::Result<String> {
        self.look_at(&fleet.table());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn register(&self) -> prometheus::Result<()> {
        let collectors: [Box<dyn Collector>; 13] = [
            Box::new(self.requests.clone()),
            Box::new(self.durations.clone()),
            Box::new(self.waits.clone()),
            Box::new(self.replicas.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.in_flight_requests.clone()),
            Box::new(self.in_flight_tokens.clone()),
            Box::new(self.told_prefill_tokens.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.broken_streams.clone()),
            Box::new(self.disconnects.clone()),
            Box::new(self.endpoints_errors.clone()),
            Box::new(self.keys_errors.clone()),
        ];
        collectors
            .into_iter()
            .try_for_each(|collector| self.registry.register(collector))
    }

    /// Gauges are taken at the moment of the question, so that what is gone leaves no series behind.
    fn look_at(&self, table: &Table) {
        for gauge in [
            &self.replicas,
            &self.waiting,
            &self.in_flight_requests,
            &self.in_flight_tokens,
            &self.told_prefill_tokens,
        ] {
            gauge.reset();
        }
        let as_gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for model in table.models.iter().take(MAX_LABELS) {
            let name = model.name.as_str();
            let total = model.replicas.len() as u64;
            let waiting = model.shared.queue.len() as u64;
            self.replicas
                .with_label_values(&[name, "total"])
                .set(as_gauge(total));
            self.replicas
                .with_label_values(&[name, "ready"])
                .set(as_gauge(model.ready() as u64));
            self.waiting.with_label_values(&[name]).set(as_gauge(waiting));
        }
        let replicas = table.models.iter().flat_map(|model| &model.replicas);
        for replica in replicas.take(MAX_LABELS) {
            let id = [replica.id.as_str()];
            self.in_flight_requests
                .with_label_values(&id)
                .set(as_gauge(replica.requests_in_flight()));
            self.in_flight_tokens
                .with_label_values(&id)
                .set(as_gauge(replica.tokens_in_flight()));
            let told = replica.load().queued_prefill_tokens;
            self.told_prefill_tokens
                .with_label_values(&id)
                .set(as_gauge(told));
        }
    }

    /// The label of a model, as long as there are not too many: models come and go, series stay.
    fn model_label<'a>(&self, model: Option<&'a str>) -> &'a str {
        let Some(model) = model else { return OTHER };
        let mut known = self.model_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(model) || (known.len() < MAX_LABELS && known.insert(model.to_owned())) {
            model
        } else {
            OTHER
        }
    }
}

impl Observed {
    /// The request is for this model of the snapshot.
    pub(crate) fn is_for(&mut self, model: &str) {
        self.model = Some(model.to_owned());
    }

    /// It was answered.
    pub(crate) fn finish(mut self, status: http::StatusCode) {
        self.is_finished = true;
        let model = self.metrics.model_label(self.model.as_deref());
        self.metrics
            .requests
            .with_label_values(&[self.route, model, status.as_str()])
            .inc();
        let seconds = self.began.elapsed().as_secs_f64();
        self.metrics
            .durations
            .with_label_values(&[self.route])
            .observe(seconds);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.is_finished {
            self.metrics.disconnects.inc();
        }
    }
}
