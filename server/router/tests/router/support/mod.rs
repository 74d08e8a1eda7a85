//! A router on a free port, a list of replicas to rewrite, and replicas that behave and misbehave.

pub mod clients;
pub mod cluster;
pub mod engine;
pub mod fake;
pub mod raw;

use std::{net::SocketAddr, time::Duration};

use ferrum_engine::Task;
use ferrum_router::{Endpoints, ModelEntry, ReplicaEntry, Router, RouterConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

/// The longest that any condition is waited for.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A router and its list of replicas.
pub struct Harness {
    pub folder: TempDir,
    pub address: SocketAddr,
    pub control: Option<SocketAddr>,
    pub client: reqwest::Client,
    pub endpoints: Endpoints,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Harness {
    /// A router with one chat model `m` and these replicas, as soon as `ready` of them are ready.
    pub async fn start(urls: &[String], ready: usize) -> Self {
        Self::with(urls, ready, |_| {}).await
    }

    /// The same with other settings.
    pub async fn with(urls: &[String], ready: usize, set: impl FnOnce(&mut RouterConfig)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("endpoints.json");
        let mut config = RouterConfig::new(&path);
        set(&mut config);
        let endpoints = endpoints(urls);
        endpoints.write_atomically(&path).expect("writes");
        let harness = Self::serve(config, folder, endpoints).await;
        // With a control port, clients do not see it.
        if harness.control.is_none() {
            harness.await_ready(ready).await;
        }
        harness
    }

    /// A router over any source.
    pub async fn of(config: RouterConfig) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self::serve(config, folder, Endpoints::default()).await
    }

    async fn serve(config: RouterConfig, folder: TempDir, endpoints: Endpoints) -> Self {
        let router = Router::bind(config).await.expect("binds");
        let (address, control) = (router.local_addr(), router.control_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(router.serve(async {
            let _ = stopped.await;
        }));
        Self {
            folder,
            address,
            control,
            client: client(),
            endpoints,
            stop: Some(stop),
            served,
        }
    }

    /// Rewrites the list.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Endpoints)) {
        self.endpoints.generation += 1;
        change(&mut self.endpoints);
        let path = self.folder.path().join("endpoints.json");
        self.endpoints.write_atomically(&path).expect("writes");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn control_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.control.expect("a control port"))
    }

    pub async fn health(&self) -> Value {
        let response = self
            .client
            .get(self.url("/health"))
            .send()
            .await
            .expect("answers");
        response.json().await.expect("JSON")
    }

    /// The document of a path.
    pub async fn get_json(&self, path: &str) -> Value {
        let response = self.client.get(self.url(path)).send().await.expect("answers");
        response.json().await.expect("JSON")
    }

    /// Waits until so many replicas of the first model are ready.
    pub async fn await_ready(&self, ready: usize) {
        until("replicas are ready", async || {
            self.health().await["models"][0]["ready"] == ready
        })
        .await;
    }

    /// A chat request that is not streamed: status and body.
    pub async fn ask(&self, body: Value) -> (u16, Value) {
        let request = self.client.post(self.url("/v1/chat/completions")).json(&body);
        let response = request.send().await.expect("answers");
        let status = response.status().as_u16();
        (status, response.json().await.expect("JSON"))
    }

    /// A streamed chat request: status and text.
    pub async fn stream(&self, body: Value) -> (u16, String) {
        let request = self.client.post(self.url("/v1/chat/completions")).json(&body);
        let response = request.send().await.expect("answers");
        let status = response.status().as_u16();
        (status, response.text().await.expect("text"))
    }

    /// All metrics, as text.
    pub async fn metrics(&self) -> String {
        let response = self
            .client
            .get(self.url("/metrics"))
            .send()
            .await
            .expect("answers");
        response.text().await.expect("text")
    }

    /// The sum of a metric's series whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let response = self
            .client
            .get(self.url("/metrics"))
            .send()
            .await
            .expect("answers");
        let text = response.text().await.expect("text");
        let series = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until nothing is counted on any replica.
    pub async fn await_idle(&self) {
        until("nothing is in flight", async || {
            self.metric("ferrum_router_in_flight", "").await == 0.0
        })
        .await;
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits for its end.
    pub async fn await_stopped(&mut self) {
        tokio::time::timeout(TIMEOUT, &mut self.served)
            .await
            .expect("stops in time")
            .expect("no panic");
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// One model `m` with these replicas, named `r0`, `r1`, ….
pub fn endpoints(urls: &[String]) -> Endpoints {
    let replica = |(index, url): (usize, &String)| replica(&format!("r{index}"), url);
    Endpoints {
        generation: 1,
        models: vec![model("m")],
        replicas: urls.iter().enumerate().map(replica).collect(),
    }
}

pub fn replica(id: &str, url: &str) -> ReplicaEntry {
    ReplicaEntry {
        id: id.to_owned(),
        model: "m".to_owned(),
        url: url.to_owned(),
        draining: false,
    }
}

pub fn model(name: &str) -> ModelEntry {
    ModelEntry {
        name: name.to_owned(),
        served_names: vec![name.to_owned()],
        task: Task::Chat,
        message: None,
        phase: None,
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .expect("client")
}

/// A chat request to `m`.
pub fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
}

/// The same, streamed.
pub fn streamed_chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": true})
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition().await {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
