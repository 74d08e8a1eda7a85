//! What clients see when an engine is killed under load.

#![allow(clippy::print_stdout)] // the figures are what the test shows, with --nocapture

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_e2e::{
    client::{ChatRequest, Outcome, chat},
    smollm2,
    stack::{Stack, signal},
};
use rustix::process::Signal;
use serde_json::Value;

const CLIENTS: usize = 20;

/// Replicas of `smollm2` that the router would choose now.
fn ready_replicas(health: &Value) -> u64 {
    health["models"]
        .as_array()
        .and_then(|models| models.iter().find(|model| model["name"] == "smollm2"))
        .and_then(|model| model["ready"].as_u64())
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_an_engine_under_load_ends_only_streams_already_begun_on_it() -> anyhow::Result<()> {
    let stack = Stack::start(&smollm2(2), &[]).await?;
    stack
        .await_health("two replicas ready", |health| ready_replicas(health) == 2)
        .await?;
    let engines = stack.engine_pids()?;
    assert_eq!(engines.len(), 2, "one process a replica");

    let url: Arc<str> = stack.url.as_str().into();
    let deadline = Instant::now() + Duration::from_secs(12);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let url = Arc::clone(&url);
            tokio::spawn(async move { ask_until(&url, client, deadline).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await; // so that every client has requests in flight: the load itself
    signal(engines[0], Signal::KILL)?;

    let mut outcomes = Vec::new();
    for client in clients {
        outcomes.extend(client.await?);
    }
    let complete = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Complete { .. }))
        .count();
    let broken = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::BrokenWithError(_)))
        .count();
    let others: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !matches!(outcome, Outcome::Complete { .. } | Outcome::BrokenWithError(_)))
        .collect();
    println!(
        "{} requests: {complete} complete, {broken} streams cut with an error event",
        outcomes.len()
    );
    assert!(
        others.is_empty(),
        "requests that failed although they had not begun: {others:?}"
    );
    assert!(broken <= CLIENTS, "a client has at most one stream in flight");
    assert!(complete > CLIENTS, "the other replica went on");

    stack
        .await_health("the killed replica is back", |health| ready_replicas(health) == 2)
        .await?;
    let now = stack.engine_pids()?;
    assert_eq!(now.len(), 2);
    assert!(!now.contains(&engines[0]), "a new process took its place");
    assert!(now.contains(&engines[1]), "the other engine was left alone");
    stack.stop().await
}

async fn ask_until(url: &str, client: usize, deadline: Instant) -> Vec<Outcome> {
    let http = reqwest::Client::new();
    let mut outcomes = Vec::new();
    while Instant::now() < deadline {
        let prompt = format!(
            "Client {client}, question {}: what is the capital of France?",
            outcomes.len()
        );
        let request = ChatRequest {
            model: "smollm2",
            prompt: &prompt,
            max_tokens: 24,
            stream: client.is_multiple_of(2),
        };
        outcomes.push(chat(&http, url, &request).await);
    }
    outcomes
}
