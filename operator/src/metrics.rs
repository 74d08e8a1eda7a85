//! What Prometheus reads from the operator.

use std::time::Duration;

use kube::runtime::reflector::Store;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use ferrum_crds::{FerrumModel, names};

/// Counters and gauges of one operator.
pub(crate) struct Metrics {
    registry: Registry,
    reconcile_seconds: Histogram,
    reconcile_errors: IntCounterVec,
    api_requests: IntCounterVec,
    watch_errors: IntCounterVec,
    models: IntGaugeVec,
    leader: IntGauge,
    demand_streams: IntGauge,
    engine_streams: IntGauge,
}

impl Metrics {
    /// Everything at zero.
    ///
    /// # Errors
    /// A metric that is defined twice.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let buckets = vec![
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        let seconds = HistogramOpts::new(
            "ferrum_operator_reconcile_duration_seconds",
            "Time of one reconcile",
        );
        let metrics = Self {
            registry: Registry::new(),
            reconcile_seconds: Histogram::with_opts(seconds.buckets(buckets))?,
            reconcile_errors: counters("reconcile_errors_total", "Reconciles that failed", "reason")?,
            api_requests: counters("api_requests_total", "Requests to the API server", "verb")?,
            watch_errors: counters("watch_errors_total", "Watches that broke", "kind")?,
            models: IntGaugeVec::new(
                Opts::new("ferrum_operator_models", "FerrumModels by readiness"),
                &["ready"],
            )?,
            leader: gauge("leader", "Whether this process writes")?,
            demand_streams: gauge("demand_streams", "Routers that tell their demand")?,
            engine_streams: gauge("engine_streams", "Engines whose phases are followed")?,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        registry.register(Box::new(metrics.reconcile_errors.clone()))?;
        registry.register(Box::new(metrics.api_requests.clone()))?;
        registry.register(Box::new(metrics.watch_errors.clone()))?;
        registry.register(Box::new(metrics.models.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.demand_streams.clone()))?;
        registry.register(Box::new(metrics.engine_streams.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn reconciled(&self, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn reconcile_failed(&self, reason: &str) {
        self.reconcile_errors.with_label_values(&[reason]).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_errors.with_label_values(&[kind]).inc();
    }

    /// Counts a request by what it does to the API server.
    pub(crate) fn request<B>(&self, request: &http::Request<B>) {
        self.api_requests.with_label_values(&[verb(request)]).inc();
    }

    pub(crate) fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    pub(crate) fn demand_streams(&self) -> &IntGauge {
        &self.demand_streams
    }

    pub(crate) fn engine_streams(&self) -> &IntGauge {
        &self.engine_streams
    }

    /// The text format, with the models as `stores` know them.
    pub(crate) fn render(&self, stores: &[Store<FerrumModel>]) -> prometheus::Result<Vec<u8>> {
        let (mut ready, mut unready) = (0, 0);
        for model in stores.iter().flat_map(Store::state) {
            match is_ready(&model) {
                true => ready += 1,
                false => unready += 1,
            }
        }
        self.models.with_label_values(&["true"]).set(ready);
        self.models.with_label_values(&["false"]).set(unready);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn counters(name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(format!("ferrum_operator_{name}"), help), &[label])
}

fn gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(format!("ferrum_operator_{name}"), help)
}

fn verb<B>(request: &http::Request<B>) -> &'static str {
    let uri = request.uri();
    let is_watch = uri
        .query()
        .is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    // A collection's path ends in the plural of its kind, an object's in its name: the segments behind the version.
    let segments: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let behind_version = match segments.first() {
        Some(&"api") => segments.len().saturating_sub(2),
        _ => segments.len().saturating_sub(3),
    };
    let is_collection =
        behind_version == 1 || (behind_version == 3 && segments[segments.len() - 3] == "namespaces");
    match request.method().as_str() {
        "GET" if is_watch => "watch",
        "GET" if is_collection => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}

fn is_ready(model: &FerrumModel) -> bool {
    let conditions = model.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == names::ConditionType::Ready.as_str() && condition.status == "True"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_as_what_it_does() {
        let cases = [
            ("GET", "/apis/ferrum.dev/v1alpha1/ferrummodels?limit=500", "list"),
            (
                "GET",
                "/apis/ferrum.dev/v1alpha1/ferrummodels?watch=true&timeoutSeconds=290",
                "watch",
            ),
            ("GET", "/apis/apps/v1/namespaces/n/deployments/m?", "get"),
            ("GET", "/api/v1/namespaces/n/events?fieldSelector=a", "list"),
            ("GET", "/api/v1/pods?labelSelector=a", "list"),
            ("GET", "/api/v1/namespaces/n/secrets/hf", "get"),
            (
                "PATCH",
                "/apis/ferrum.dev/v1alpha1/namespaces/n/ferrummodels/m/status",
                "patch",
            ),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/n/leases/l",
                "update",
            ),
            ("POST", "/apis/events.k8s.io/v1/namespaces/n/events", "create"),
            ("DELETE", "/apis/batch/v1/namespaces/n/jobs/j", "delete"),
        ];
        for (method, uri, expected) in cases {
            let request = http::Request::builder()
                .method(method)
                .uri(uri)
                .body(())
                .expect("a request");
            assert_eq!(verb(&request), expected, "{method} {uri}");
        }
    }

    #[test]
    fn every_metric_is_there_from_the_beginning_or_from_its_first_count() {
        let metrics = Metrics::new().expect("metrics");
        metrics.reconcile_failed("apply");
        let text = String::from_utf8(metrics.render(&[]).expect("text")).expect("UTF-8");
        for name in [
            "reconcile_duration_seconds_count 0",
            "reconcile_errors_total{reason=\"apply\"} 1",
            "leader 0",
        ] {
            assert!(
                text.contains(&format!("ferrum_operator_{name}")),
                "{name} in {text}"
            );
        }
    }
}
