//! The second port: readiness, metrics, demand, and the way out of service.

use std::{net::SocketAddr, time::Duration};

use ferrum_api::{
    demand::{DemandReport, DemandRequest, ModelDemand, demand_client::DemandClient},
    telemetry::phase_change::Phase,
};
use ferrum_router::RouterConfig;
use tonic::Streaming;

use crate::support::{
    Harness, TIMEOUT, chat,
    cluster::Cluster,
    fake::{Answer, FakeEngine, phase},
    model, streamed_chat, until,
};

fn with_control(config: &mut RouterConfig) {
    config.control_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
}

async fn status(harness: &Harness, url: &str) -> u16 {
    let response = harness.client.get(url).send().await.expect("answers");
    response.status().as_u16()
}

/// The reports of a router, in their order.
struct Watch {
    stream: Streaming<DemandReport>,
    sequence: u64,
}

impl Watch {
    async fn open(harness: &Harness) -> Self {
        let mut client = DemandClient::connect(harness.control_url(""))
            .await
            .expect("connects");
        let watcher = "test".to_owned();
        let response = client.watch(DemandRequest { watcher }).await.expect("watches");
        Self {
            stream: response.into_inner(),
            sequence: 0,
        }
    }

    async fn next(&mut self) -> DemandReport {
        let message = tokio::time::timeout(TIMEOUT, self.stream.message()).await;
        let report = message.expect("in time").expect("no error").expect("a report");
        self.sequence += 1;
        assert_eq!(report.sequence, self.sequence);
        report
    }

    /// Waits for a report of the model `m` that is as it should be.
    async fn until(&mut self, is_right: impl Fn(&ModelDemand) -> bool) -> ModelDemand {
        loop {
            let report = self.next().await;
            let of_m = |demand: &&ModelDemand| demand.key.as_ref().is_some_and(|key| key.name == "m");
            if let Some(demand) = report.models.iter().find(of_m)
                && is_right(demand)
            {
                return demand.clone();
            }
        }
    }
}

#[tokio::test]
async fn it_is_alive_at_once_and_ready_when_its_first_list_has_come() {
    let mut cluster = Cluster::start().await;
    cluster.stop();
    let mut config = cluster.router_config(&[]);
    with_control(&mut config);
    let harness = Harness::of(config).await;
    assert_eq!(status(&harness, &harness.control_url("/livez")).await, 200);
    assert_eq!(status(&harness, &harness.control_url("/readyz")).await, 503);
    cluster.restart();
    until("it is ready", async || {
        status(&harness, &harness.control_url("/readyz")).await == 200
    })
    .await;
    // An API server that goes afterwards changes nothing.
    cluster.stop();
    assert_eq!(status(&harness, &harness.control_url("/readyz")).await, 200);
}

#[tokio::test]
async fn metrics_and_models_are_told_on_the_control_port_only() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, with_control).await;
    let metrics = harness.client.get(harness.control_url("/metrics")).send().await;
    let metrics = metrics.expect("answers").text().await.expect("text");
    assert!(
        metrics.contains("ferrum_router_replicas{model=\"m\",state=\"total\"} 1"),
        "{metrics}"
    );
    assert_eq!(status(&harness, &harness.url("/metrics")).await, 404);
    let health = harness.health().await;
    assert_eq!(health["models"].as_array().map(Vec::len), Some(0), "{health}");
    // Other paths of the clients' port are not here.
    assert_eq!(status(&harness, &harness.control_url("/v1/models")).await, 404);
}

#[tokio::test]
async fn demand_tells_what_is_held_at_once_and_then_what_runs_where() {
    let engine = FakeEngine::with("a", phase(Phase::Loading, 0, 0), Answer::EventThenHang).await;
    let cluster = Cluster::start().await;
    cluster.model("apps", "m", serde_json::json!({"spec": {}}));
    cluster.pod("apps", "m-1", &engine.url);
    let mut config = cluster.router_config(&[]);
    with_control(&mut config);
    let harness = Harness::of(config).await;
    let mut watch = Watch::open(&harness).await;
    let idle = watch.until(|demand| demand.replicas.len() == 1).await;
    assert_eq!((idle.held_requests, idle.running_requests), (0, 0));
    assert_eq!(idle.key.expect("a key").namespace, "apps");
    assert!(!idle.replicas[0].ready);

    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let asked = tokio::spawn(request.send());
    let held = watch.until(|demand| demand.held_requests == 1).await;
    assert!(held.held_tokens > 0 && held.requests_total == 1, "{held:?}");

    engine.set_phase(phase(Phase::Ready, 0, 0));
    let response = asked.await.expect("no panic").expect("begins");
    let running = watch.until(|demand| demand.running_requests == 1).await;
    assert_eq!((running.held_requests, running.held_tokens), (0, 0));
    let replica = &running.replicas[0];
    assert_eq!(
        (replica.pod.as_str(), replica.running_requests, replica.ready),
        ("m-1", 1, true)
    );
    assert_eq!(replica.running_tokens, running.running_tokens);

    // What runs on a pod that is gone still runs.
    cluster.delete("pods", "apps", "m-1");
    let gone = watch.until(|demand| demand.replicas.is_empty()).await;
    assert_eq!(gone.running_requests, 1);
    drop(response);
    watch
        .until(|demand| demand.running_requests == 0 && demand.running_tokens == 0)
        .await;
}

#[tokio::test]
async fn demand_tells_only_what_changed_and_which_models_are_gone() {
    let mut harness = Harness::with(&[], 0, with_control).await;
    let mut watch = Watch::open(&harness).await;
    assert_eq!(watch.next().await.models.len(), 1);
    harness.rewrite(|endpoints| endpoints.models.push(model("n")));
    let report = watch.next().await;
    let names: Vec<_> = report
        .models
        .iter()
        .filter_map(|demand| Some(&demand.key.as_ref()?.name))
        .collect();
    assert_eq!(names, ["n"]);
    harness.rewrite(|endpoints| endpoints.models.retain(|model| model.name == "m"));
    let report = watch.next().await;
    assert!(
        report.models.is_empty() && report.gone[0].name == "n",
        "{report:?}"
    );
    // Nothing changes, and yet it is not silent.
    let report = watch.next().await;
    assert!(report.models.is_empty() && report.gone.is_empty(), "{report:?}");
}

#[tokio::test]
async fn out_of_service_it_is_not_ready_at_once_and_takes_requests_for_a_while() {
    let engine = FakeEngine::start("a").await;
    let mut harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        with_control(config);
        config.shutdown_delay = Duration::from_millis(1_500);
    })
    .await;
    until("it is ready", async || harness.ask(chat()).await.0 == 200).await;
    engine.answer(Answer::Events(1));
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let running = tokio::spawn(async move { request.send().await.expect("begins").text().await });
    until("it runs", async || engine.requests() > 1).await;
    engine.answer(Answer::Ok(Duration::ZERO));

    harness.stop();
    until("it is not ready", async || {
        status(&harness, &harness.control_url("/readyz")).await == 503
    })
    .await;
    assert_eq!(status(&harness, &harness.control_url("/livez")).await, 200);
    let response = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat());
    let response = response.send().await.expect("still taken");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["connection"]),
        (200, &http::HeaderValue::from_static("close"))
    );
    until("the door is closed", async || {
        let address = harness.address;
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    // The operator hears of what still runs.
    let mut watch = Watch::open(&harness).await;
    assert_eq!(
        watch
            .until(|demand| demand.running_requests > 0)
            .await
            .running_requests,
        1
    );
    engine.allow_event();
    let text = running.await.expect("no panic").expect("to its end");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    harness.await_stopped().await;
}
