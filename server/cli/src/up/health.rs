//! What an engine says of itself.

use std::time::Duration;

use ferrum_engine::{Phase, Task};
use serde_json::Value;

/// Asks engines. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HealthClient {
    http: reqwest::Client,
}

impl HealthClient {
    /// A client that asks only this machine.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { http })
    }

    /// Asks the engine at `url`; `None` when it does not answer, or not like an engine.
    pub(crate) async fn phase(&self, url: &str) -> Option<Phase> {
        // Not ready and failed come with 503 and the same body.
        serde_json::from_value(self.get(url, "/health").await?).ok()
    }

    /// What the model of a ready engine is for.
    pub(crate) async fn task(&self, url: &str) -> Option<Task> {
        let models = self.get(url, "/v1/models").await?;
        serde_json::from_value(models["data"][0]["task"].clone()).ok()
    }

    async fn get(&self, url: &str, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{url}{path}")).send().await.ok()?;
        answer.json().await.ok()
    }
}

/// A phase for people.
pub(crate) fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Draining => "finishes what runs".to_owned(),
        Phase::Failed { message } => format!("failed: {message}"),
        Phase::Fetching {
            done_bytes,
            total_bytes: 0,
        } => format!("downloads weights: {}", megabytes(*done_bytes)),
        Phase::Fetching {
            done_bytes,
            total_bytes,
        } => {
            format!(
                "downloads weights: {} % of {}",
                percent(*done_bytes, *total_bytes),
                megabytes(*total_bytes)
            )
        }
        Phase::Loading { total: 0, .. } => "loads weights".to_owned(),
        Phase::Loading { done, total } => format!("loads weights: {} %", percent(*done, *total)),
        Phase::Ready => "ready".to_owned(),
        Phase::Starting => "starts".to_owned(),
        Phase::Warming => "warms up".to_owned(),
    }
}

fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done) * 100 / u128::from(total.max(1))).min(100) as u64
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_phase_of_an_engine_is_read_and_told() {
        let told = |body| describe(&serde_json::from_value::<Phase>(body).expect("a phase"));
        let fetching = json!({"phase": "fetching", "done_bytes": 43_000_000, "total_bytes": 100_000_000});
        assert_eq!(told(fetching), "downloads weights: 43 % of 100.0 MB");
        assert_eq!(
            told(json!({"phase": "loading", "done": 1, "total": 4})),
            "loads weights: 25 %"
        );
        assert_eq!(
            told(json!({"phase": "failed", "message": "no such file"})),
            "failed: no such file"
        );
    }
}
