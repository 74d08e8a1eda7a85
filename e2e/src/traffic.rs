//! Mixed traffic through the official OpenAI client, while something happens to what serves it.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

/// Clients at a time, half of them streaming.
pub const CLIENTS: usize = 20;
/// Traffic ends by itself after this long.
const MAX_SECONDS: u64 = 600;

/// Traffic that runs. Dropping it ends it.
pub struct Traffic {
    process: Child,
}

/// What became of the requests.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// Length of the traffic.
    pub seconds: f64,
    /// Complete answers.
    pub succeeded: u64,
    /// Requests that failed, the cut ones included.
    pub failed: u64,
    /// Streams that broke off after they had begun.
    pub cut_streams: u64,
    /// Longest time in which no request was answered.
    pub longest_silence_seconds: f64,
    /// From request to complete answer.
    pub latency_seconds: Latency,
    /// The first failures.
    pub failures: Vec<serde_json::Value>,
}

/// Quantiles of the latency.
#[derive(Debug, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Longest.
    pub max: Option<f64>,
}

impl Traffic {
    /// Starts [`CLIENTS`] clients that ask `model` at `endpoint` (without `/v1`) and returns once as many requests
    /// have been answered: connections are open by then.
    ///
    /// # Errors
    /// The client cannot be started: `make test` and `make e2e` install it.
    pub async fn start(endpoint: &str, model: &str) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../.cache/venv-openai/bin/python");
        let mut process = Command::new(&python)
            .arg(root.join("openai/traffic.py"))
            .args(["--base-url", &format!("{endpoint}/v1"), "--model", model])
            .args([
                "--clients",
                &CLIENTS.to_string(),
                "--max-seconds",
                &MAX_SECONDS.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let errors = process.stderr.take().context("piped")?;
        let mut lines = BufReader::new(errors).lines();
        let first = tokio::time::timeout(Duration::from_secs(120), lines.next_line()).await;
        let first = first.context("the clients got no answers")??;
        anyhow::ensure!(
            first.as_deref() == Some("answered"),
            "the clients did not start: {first:?}"
        );
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { process })
    }

    /// Lets running requests end and tells what became of all.
    ///
    /// # Errors
    /// The clients gave no report.
    pub async fn finish(mut self) -> anyhow::Result<Report> {
        drop(self.process.stdin.take());
        let mut text = String::new();
        let mut output = self.process.stdout.take().context("piped")?;
        output.read_to_string(&mut text).await?;
        self.process.wait().await?;
        serde_json::from_str(&text).with_context(|| format!("no report: {text}"))
    }
}
