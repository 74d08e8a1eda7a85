//! The router before real engine servers, with simulated engines behind them.

use std::time::Duration;

use ferrum_engine::{LaunchConfig, Task};
use ferrum_sim::SimConfig;
use futures_util::{StreamExt, future::join_all};
use serde_json::{Value, json};

use crate::support::{
    Harness, chat,
    clients::Clients,
    engine::{SimServer, launch_config},
    replica, streamed_chat, until,
};

/// 20 tokens, 5 ms apart.
fn brisk() -> SimConfig {
    SimConfig {
        ttft_ms: 10,
        tpot_ms: 5,
        answer_tokens: 20,
        ..SimConfig::default()
    }
}

/// Never done within a test.
fn endless() -> SimConfig {
    SimConfig {
        tpot_ms: 20,
        answer_tokens: 1_000_000,
        ..SimConfig::default()
    }
}

async fn one(sim: SimConfig) -> (SimServer, Harness) {
    let engine = SimServer::start(sim).await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    (engine, harness)
}

/// The text of a streamed answer.
fn streamed_text(events: &str) -> String {
    let data = events
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    let chunks = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    chunks
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test]
async fn an_answer_is_the_same_routed_and_direct_whole_and_streamed() {
    let (engine, harness) = one(brisk()).await;
    let seeded = |mut body: Value| {
        body["seed"] = json!(1);
        body
    };
    let url = format!("{}/v1/chat/completions", engine.url);
    let direct = harness.client.post(url).json(&seeded(chat()));
    let direct: Value = direct.send().await.expect("answers").json().await.expect("JSON");
    let text = &direct["choices"][0]["message"]["content"];
    let (status, routed) = harness.ask(seeded(chat())).await;
    assert_eq!((status, &routed["choices"][0]["message"]["content"]), (200, text));
    let (status, events) = harness.stream(seeded(streamed_chat())).await;
    assert_eq!(
        (status, streamed_text(&events)),
        (200, text.as_str().expect("text").to_owned())
    );
    assert!(events.ends_with("data: [DONE]\n\n"));
    let url = harness.url("/v1/models/m");
    let card: Value = harness
        .client
        .get(url)
        .send()
        .await
        .expect("answers")
        .json()
        .await
        .expect("JSON");
    assert_eq!(card["max_model_len"], 8192, "told by telemetry");
}

#[tokio::test]
async fn embeddings_come_through() {
    let launch = LaunchConfig {
        task: Some(Task::Embedding),
        ..launch_config()
    };
    let engine = SimServer::with(launch, SimConfig::default()).await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    let body = json!({"model": "m", "input": ["one", "two"]});
    let response = harness
        .client
        .post(harness.url("/v1/embeddings"))
        .json(&body)
        .send()
        .await
        .expect("answers");
    assert_eq!(response.status(), 200);
    let list: Value = response.json().await.expect("JSON");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
    let (status, error) = harness.ask(chat()).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("wrong_task")));
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_sequence_within_a_second() {
    for body in [streamed_chat(), chat()] {
        let (engine, harness) = one(endless()).await;
        let is_stream = body["stream"] == true;
        let request = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&body);
        let sent = tokio::spawn(async move {
            let mut pieces = request.send().await.expect("begins").bytes_stream();
            while pieces.next().await.is_some() {}
        });
        until("it runs", async || engine.load().running_requests == 1).await;
        if is_stream {
            until("it streams", async || engine.load().generated_tokens_total > 3).await;
        }
        sent.abort();
        let left = std::time::Instant::now();
        until("its blocks are free", async || {
            let load = engine.load();
            load.running_requests == 0 && load.free_blocks == load.total_blocks
        })
        .await;
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        assert_eq!(engine.engine.counters().cancelled, 1);
        harness.await_idle().await;
    }
}

#[tokio::test]
async fn an_engine_that_is_killed_under_load_costs_only_the_streams_that_it_had_begun() {
    let (one, two) = (SimServer::start(brisk()).await, SimServer::start(brisk()).await);
    let mut harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    let clients = Clients::start(20, harness.url("/v1/chat/completions"));
    clients.await_more(40).await;
    drop(one);
    harness.await_ready(1).await;
    clients.await_more(40).await;
    let again = SimServer::start(brisk()).await;
    harness.rewrite(|list| list.replicas[0] = replica("r0", &again.url));
    harness.await_ready(2).await;
    clients.await_more(40).await;
    until("it works again", async || again.engine.counters().finished > 0).await;
    let outcome = clients.finish().await;
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    // Half of the clients stream, and half of those were on the engine that died.
    assert!(
        outcome.broken_streams <= 10,
        "{} streams broke",
        outcome.broken_streams
    );
    let counted = harness.metric("ferrum_router_broken_streams_total", "").await;
    assert_eq!(counted, outcome.broken_streams as f64);
    harness.await_idle().await;
}

#[tokio::test]
async fn an_engine_that_drains_under_load_costs_nothing() {
    let (mut one, two) = (SimServer::start(brisk()).await, SimServer::start(brisk()).await);
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    let clients = Clients::start(20, harness.url("/v1/chat/completions"));
    clients.await_more(40).await;
    one.drain();
    harness.await_ready(1).await;
    clients.await_more(60).await;
    let outcome = clients.finish().await;
    assert_eq!((outcome.failures, outcome.broken_streams), (Vec::new(), 0));
    let counters = one.engine.counters();
    assert_eq!((counters.cancelled, counters.failed), (0, 0), "{counters:?}");
    harness.await_idle().await;
}

#[tokio::test]
async fn an_engine_that_fails_under_load_costs_only_the_streams_that_it_had_begun() {
    let (one, two) = (SimServer::start(brisk()).await, SimServer::start(brisk()).await);
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    let clients = Clients::start(20, harness.url("/v1/chat/completions"));
    clients.await_more(40).await;
    one.engine.fail("as told");
    harness.await_ready(1).await;
    clients.await_more(40).await;
    let outcome = clients.finish().await;
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    assert!(
        outcome.broken_streams <= 10,
        "{} streams broke",
        outcome.broken_streams
    );
    harness.await_idle().await;
}

#[tokio::test]
async fn replicas_come_and_go_under_load_without_a_failure() {
    let mut engines = vec![SimServer::start(brisk()).await];
    let mut harness = Harness::start(&[engines[0].url.clone()], 1).await;
    let clients = Clients::start(20, harness.url("/v1/chat/completions"));
    for round in 0..4 {
        let slow = SimConfig {
            start_ms: 100,
            ..brisk()
        };
        let engine = SimServer::start(slow).await;
        harness.rewrite(|list| list.replicas.push(replica(&format!("x{round}"), &engine.url)));
        engines.push(engine);
        harness.await_ready(2).await;
        clients.await_more(40).await;
        // As `ferrum up` does it: draining first, then out of the list, then SIGTERM.
        let mut gone = engines.remove(0);
        harness.rewrite(|list| {
            list.replicas
                .iter_mut()
                .for_each(|entry| entry.draining |= entry.url == gone.url)
        });
        harness.await_ready(1).await;
        harness.rewrite(|list| list.replicas.retain(|entry| entry.url != gone.url));
        gone.drain();
        until("it has finished", async || gone.load().running_requests == 0).await;
        clients.await_more(20).await;
    }
    let outcome = clients.finish().await;
    assert_eq!((outcome.failures, outcome.broken_streams), (Vec::new(), 0));
    harness.await_idle().await;
}

#[tokio::test]
async fn more_requests_than_the_engines_take_wait_their_turn_and_all_succeed() {
    let launch = LaunchConfig {
        max_num_seqs: 2,
        max_waiting: 2,
        ..launch_config()
    };
    let (one, two) = (
        SimServer::with(launch.clone(), brisk()).await,
        SimServer::with(launch, brisk()).await,
    );
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    let answers = join_all((0..60).map(|index| {
        let harness = &harness;
        async move {
            if index % 2 == 0 {
                harness.ask(chat()).await.0
            } else {
                harness.stream(streamed_chat()).await.0
            }
        }
    }))
    .await;
    assert!(answers.iter().all(|&status| status == 200), "{answers:?}");
    assert_eq!(
        one.engine.counters().finished + two.engine.counters().finished,
        60
    );
    harness.await_idle().await;
}
