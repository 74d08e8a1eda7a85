//! A frontend over a simulated engine, reached through a real socket.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{sync::Arc, time::Duration};

use ferrum_engine::{EngineHandle, EngineLoad, LaunchConfig, Phase, Task};
use ferrum_frontend::{Frontend, FrontendConfig, FrontendError, FrontendHandle};
use ferrum_sim::{SimConfig, SimEngine, byte_level_tokenizer, launch};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Longer than anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) engine: Arc<SimEngine>,
    pub(crate) handle: FrontendHandle,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), FrontendError>>,
}

/// A ready chat model of the name `sim`.
pub(crate) async fn chat(sim: SimConfig) -> Server {
    with_launch(launch_config(), sim).await
}

/// A ready embedding model of the name `sim`.
pub(crate) async fn embedding(sim: SimConfig) -> Server {
    with_launch(
        LaunchConfig {
            task: Some(Task::Embedding),
            ..launch_config()
        },
        sim,
    )
    .await
}

pub(crate) fn launch_config() -> LaunchConfig {
    LaunchConfig {
        served_names: vec!["sim".to_owned(), "org/other".to_owned()],
        ..LaunchConfig::new("sim")
    }
}

pub(crate) async fn with_launch(launch: LaunchConfig, sim: SimConfig) -> Server {
    let server = loading(FrontendConfig::new("127.0.0.1", 0), launch, sim).await;
    server.install().await;
    server
}

pub(crate) async fn with_config(config: FrontendConfig, sim: SimConfig) -> Server {
    let server = loading(config, launch_config(), sim).await;
    server.install().await;
    server
}

/// A frontend whose engine is there but not installed yet.
pub(crate) async fn loading(config: FrontendConfig, launch_config: LaunchConfig, sim: SimConfig) -> Server {
    let frontend = Frontend::bind(config).await.expect("binds");
    let url = format!("http://{}", frontend.local_addr());
    let handle = frontend.handle();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(frontend.run_until(async {
        let _ = stopped.await;
    }));
    let engine = launch(&launch_config, &sim, |_| {}).await.expect("launches");
    Server {
        engine,
        handle,
        url,
        client: reqwest::Client::new(),
        stop: Some(stop),
        running,
    }
}

impl Server {
    pub(crate) async fn install(&self) {
        let tokenizer = Arc::new(byte_level_tokenizer().expect("builds"));
        self.handle.install(self.engine.clone(), tokenizer).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.url)).send();
        timeout(LIMIT, request)
            .await
            .expect("in time")
            .expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.client.post(format!("{}{path}", self.url)).json(body).send();
        timeout(LIMIT, request)
            .await
            .expect("in time")
            .expect("an answer")
    }

    /// The answer's JSON, which must have `status`.
    pub(crate) async fn post_json(&self, path: &str, body: &Value, status: StatusCode) -> Value {
        let response = self.post(path, body).await;
        let found = response.status();
        let text = response.text().await.expect("a body");
        assert_eq!(found, status, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub(crate) async fn load_becomes(&self, condition: impl FnMut(&EngineLoad) -> bool) {
        let mut load = self.engine.load();
        timeout(LIMIT, load.wait_for(condition))
            .await
            .expect("in time")
            .expect("alive");
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.handle.set_phase(phase);
    }

    /// Begins the shutdown.
    pub(crate) fn shut_down(&mut self) {
        self.stop.take().expect("once").send(()).expect("runs");
    }

    /// Waits for the end.
    pub(crate) async fn ended(self) -> Result<(), FrontendError> {
        timeout(LIMIT, self.running)
            .await
            .expect("in time")
            .expect("no panic")
    }
}

/// A chat request of `sim` with more fields.
pub(crate) fn chat_request(extra: Value) -> Value {
    let mut body = json!({"model": "sim", "messages": [{"role": "user", "content": "hello"}], "seed": 1});
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// The `data:` of every event of a whole stream; comments are left out.
pub(crate) async fn events(response: Response) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    let text = timeout(LIMIT, response.text())
        .await
        .expect("in time")
        .expect("a body");
    text.split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

/// The text of the `index`-th choice over all chunks.
pub(crate) fn streamed_text(events: &[String], index: u64) -> String {
    let chunks = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let choices = chunks.flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap_or_default());
    choices
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| {
            choice["delta"]["content"]
                .as_str()
                .or(choice["text"].as_str())
                .map(str::to_owned)
        })
        .collect()
}
