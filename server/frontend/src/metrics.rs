//! What Prometheus reads, `ferrum_engine_<noun>_<unit>`.

use std::time::Duration;

use ferrum_engine::EngineLoad;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector, exponential_buckets,
};

/// All metrics of one frontend.
pub(crate) struct Metrics {
    registry: Registry,
    /// Error answers by code, mid-stream ones included.
    pub(crate) errors: IntCounterVec,
    /// Requests of the engine (a sequence, a text) by how they ended.
    requests: IntCounterVec,
    queue: Histogram,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    duration: Histogram,
    load: LoadMetrics,
}

/// How a request of the engine ended.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    Cancelled,
    Failed,
    Finished,
}

/// Times of one request of the engine; `None` where it did not come so far.
pub(crate) struct Times {
    pub(crate) queue: Option<Duration>,
    pub(crate) first_token: Option<Duration>,
    /// Mean over the tokens after the first.
    pub(crate) per_output_token: Option<Duration>,
    pub(crate) total: Duration,
}

/// What the engine itself counts, copied when Prometheus asks.
struct LoadMetrics {
    prompt_tokens: IntCounter,
    cached_tokens: IntCounter,
    generated_tokens: IntCounter,
    steps: IntCounter,
    waiting: IntGauge,
    running: IntGauge,
    queued_prefill_tokens: IntGauge,
    blocks: IntGauge,
    free_blocks: IntGauge,
    ready: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let make = Make { registry: &registry };
        // 0.5 ms to 4 min; 0.1 ms to 6 s.
        let (long, short) = (buckets(0.0005, 20), buckets(0.0001, 17));
        Self {
            errors: make.counters("errors_total", "Error answers by code", "code"),
            requests: make.counters(
                "requests_total",
                "Sequences and texts by how they ended",
                "outcome",
            ),
            queue: make.histogram("queue_duration_seconds", "Time in the engine's queue", &long),
            time_to_first_token: make.histogram(
                "time_to_first_token_seconds",
                "Submission to first token",
                &long,
            ),
            time_per_output_token: make.histogram(
                "time_per_output_token_seconds",
                "Mean time of a token after the first, by sequence",
                &short,
            ),
            duration: make.histogram("request_duration_seconds", "Submission to last event", &long),
            load: LoadMetrics {
                prompt_tokens: make.counter("prompt_tokens_total", "Prompt tokens read"),
                cached_tokens: make.counter("cached_tokens_total", "Prompt tokens found in the prefix cache"),
                generated_tokens: make.counter("generated_tokens_total", "Tokens generated"),
                steps: make.counter("steps_total", "Steps of the engine"),
                waiting: make.gauge("waiting_requests", "Requests that wait for room"),
                running: make.gauge("running_requests", "Requests in the running batch"),
                queued_prefill_tokens: make.gauge("queued_prefill_tokens", "Prompt tokens not computed yet"),
                blocks: make.gauge("kv_blocks", "KV blocks in the pool"),
                free_blocks: make.gauge(
                    "kv_blocks_free",
                    "KV blocks that could be given out, cached ones included",
                ),
                ready: make.gauge("ready", "1 when a token can be made"),
            },
            registry,
        }
    }

    /// A request of the engine has ended.
    pub(crate) fn record(&self, outcome: Outcome, times: &Times) {
        let label = match outcome {
            Outcome::Cancelled => "cancelled",
            Outcome::Failed => "failed",
            Outcome::Finished => "finished",
        };
        self.requests.with_label_values(&[label]).inc();
        let observe = |histogram: &Histogram, time: Option<Duration>| {
            time.into_iter()
                .for_each(|time| histogram.observe(time.as_secs_f64()));
        };
        observe(&self.queue, times.queue);
        observe(&self.time_to_first_token, times.first_token);
        observe(&self.time_per_output_token, times.per_output_token);
        observe(&self.duration, Some(times.total));
    }

    /// The text format of Prometheus, with the engine's `load` as of now.
    pub(crate) fn render(&self, ready: bool, load: Option<EngineLoad>) -> Vec<u8> {
        self.load.ready.set(i64::from(ready));
        self.load.copy(&load.unwrap_or_default());
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

impl LoadMetrics {
    fn copy(&self, load: &EngineLoad) {
        // Counters go up only, by what came since the last time.
        let count = |counter: &IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        count(&self.prompt_tokens, load.prompt_tokens_total);
        count(&self.cached_tokens, load.cached_tokens_total);
        count(&self.generated_tokens, load.generated_tokens_total);
        count(&self.steps, load.steps_total);
        self.waiting.set(load.waiting_requests as i64);
        self.running.set(load.running_requests as i64);
        self.queued_prefill_tokens.set(load.queued_prefill_tokens as i64);
        self.blocks.set(load.total_blocks as i64);
        self.free_blocks.set(load.free_blocks as i64);
    }
}

/// Makes metrics and registers them. Names and buckets are constants, so that nothing can fail but by a mistake in
/// this file, which every test of it shows.
struct Make<'a> {
    registry: &'a Registry,
}

impl Make<'_> {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(Opts::new(full(name), help)))
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(full(name), help), &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(Opts::new(full(name), help)))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options))
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("constant names and buckets are valid");
        self.registry
            .register(Box::new(metric.clone()))
            .expect("constant names are used once");
        metric
    }
}

fn full(name: &str) -> String {
    format!("ferrum_engine_{name}")
}

/// `count` bounds that double from `start`.
fn buckets(start: f64, count: usize) -> Vec<f64> {
    exponential_buckets(start, 2.0, count).expect("start is positive, the factor above 1")
}
