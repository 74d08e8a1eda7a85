//! What Prometheus reads, `ferrum_engine_<noun>_<unit>`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ferrum_engine::{DeviceMemory, Durations, EngineLoad, StepTimes};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, Desc},
    exponential_buckets, proto,
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
    step_times: StepHistogram,
    /// Without a series where the device has no memory of its own.
    memory: IntGaugeVec,
}

/// The engine's own histograms, as they are: they cannot be told apart into observations again.
#[derive(Clone)]
struct StepHistogram {
    desc: Desc,
    times: Arc<Mutex<StepTimes>>,
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
                step_times: make.register(StepHistogram::new()),
                memory: make.gauges(
                    "gpu_memory_bytes",
                    "Memory of the GPUs that share the model: all, free, of weights, of the KV cache",
                    "kind",
                ),
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
        self.step_times.set(load.step_times);
        if let Some(memory) = load.memory {
            let DeviceMemory {
                total_bytes,
                free_bytes,
                weights_bytes,
                kv_cache_bytes,
            } = memory;
            for (kind, bytes) in [
                ("total", total_bytes),
                ("free", free_bytes),
                ("weights", weights_bytes),
                ("kv_cache", kv_cache_bytes),
            ] {
                self.memory.with_label_values(&[kind]).set(bytes as i64);
            }
        }
    }
}

impl StepHistogram {
    fn new() -> prometheus::Result<Self> {
        let help = "Time of a step: of the device, and of the host while the device waits for it";
        let name = full("step_duration_seconds");
        Ok(Self {
            desc: Desc::new(name, help.to_owned(), vec!["part".to_owned()], Default::default())?,
            times: Arc::default(),
        })
    }

    fn set(&self, times: StepTimes) {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }
}

impl Collector for StepHistogram {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let StepTimes { device, host } = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = proto::MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(
            [("device", device), ("host", host)]
                .map(|(part, times)| histogram(part, &times))
                .into(),
        );
        vec![family]
    }
}

fn histogram(part: &str, times: &Durations) -> proto::Metric {
    let mut label = proto::LabelPair::default();
    label.set_name("part".to_owned());
    label.set_value(part.to_owned());
    let mut below = 0;
    let bucket = |(bound, count): (f64, &u64)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(below);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(Durations::bounds().zip(&times.counts).map(bucket).collect());
    histogram.set_sample_count(times.counts.iter().sum());
    histogram.set_sample_sum(times.seconds);
    let mut metric = proto::Metric::from_label(vec![label]);
    metric.set_histogram(histogram);
    metric
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

    fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(full(name), help), &[label]))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(load: EngineLoad) -> String {
        String::from_utf8(Metrics::new().render(true, Some(load))).expect("text")
    }

    #[test]
    fn the_time_of_steps_is_told_for_device_and_host() {
        let mut step_times = StepTimes::default();
        for (device, host) in [(0.002, 0.0001), (0.003, 0.00015), (9.0, 0.0)] {
            step_times.device.add(device);
            step_times.host.add(host);
        }
        let text = text(EngineLoad {
            step_times,
            ..EngineLoad::default()
        });
        for line in [
            "ferrum_engine_step_duration_seconds_bucket{part=\"device\",le=\"0.00256\"} 1",
            "ferrum_engine_step_duration_seconds_bucket{part=\"device\",le=\"0.00512\"} 2",
            "ferrum_engine_step_duration_seconds_bucket{part=\"device\",le=\"+Inf\"} 3",
            "ferrum_engine_step_duration_seconds_sum{part=\"device\"} 9.005",
            "ferrum_engine_step_duration_seconds_count{part=\"host\"} 3",
            "ferrum_engine_step_duration_seconds_bucket{part=\"host\",le=\"0.00016\"} 3",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn memory_is_told_where_the_device_has_its_own() {
        let name = "ferrum_engine_gpu_memory_bytes";
        assert!(!text(EngineLoad::default()).contains(name));
        let memory = DeviceMemory {
            total_bytes: 80 << 30,
            free_bytes: 10 << 30,
            weights_bytes: 8 << 30,
            kv_cache_bytes: 60 << 30,
        };
        let text = text(EngineLoad {
            memory: Some(memory),
            ..EngineLoad::default()
        });
        for (kind, gib) in [("total", 80_u64), ("free", 10), ("weights", 8), ("kv_cache", 60)] {
            let line = format!("{name}{{kind=\"{kind}\"}} {}", gib << 30);
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
