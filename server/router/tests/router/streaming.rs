//! Streams and disconnects.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;

use crate::support::{
    Harness, chat,
    fake::{Answer, FakeEngine},
    streamed_chat, until,
};

async fn engine_with(answer: Answer) -> (FakeEngine, Harness) {
    let engine = FakeEngine::start("a").await;
    engine.answer(answer);
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    (engine, harness)
}

#[tokio::test]
async fn each_event_arrives_before_the_next_one_is_made() {
    let (engine, harness) = engine_with(Answer::Events(5)).await;
    engine.allow_event();
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let response = request.send().await.expect("answers");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.bytes_stream();
    for index in 0..5 {
        let event = events.next().await.expect("an event").expect("whole");
        assert!(
            event.starts_with(format!("data: {{\"replica\":\"a\",\"n\":{index}}}").as_bytes()),
            "{event:?}"
        );
        assert_eq!(
            engine
                .shared
                .events_made
                .load(std::sync::atomic::Ordering::SeqCst),
            index + 1
        );
        engine.allow_event();
    }
    assert_eq!(
        events.next().await.expect("an event").expect("whole"),
        "data: [DONE]\n\n"
    );
    assert!(events.next().await.is_none());
    harness.await_idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_replicas_work_at_once() {
    for (answer, body) in [
        (Answer::EventThenHang, streamed_chat()),
        (Answer::Ok(Duration::from_secs(600)), chat()),
    ] {
        let (engine, harness) = engine_with(answer).await;
        let request = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&body);
        let sent = tokio::spawn(async move {
            let response = request.send().await.expect("begins");
            response.bytes().await
        });
        until("the request runs", async || engine.requests() == 1).await;
        sent.abort();
        let left = std::time::Instant::now();
        until("the replica sees it leave", async || engine.dropped() == 1).await;
        assert!(
            left.elapsed() < Duration::from_secs(1),
            "{:?} later",
            left.elapsed()
        );
        harness.await_idle().await;
        until("it is counted", async || {
            harness.metric("ferrum_router_client_disconnects_total", "").await == 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_its_place_up() {
    let (_engine, mut harness) = engine_with(Answer::Ok(Duration::ZERO)).await;
    harness.rewrite(|endpoints| endpoints.replicas.clear());
    harness.await_ready(0).await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat());
    let sent = tokio::spawn(request.send());
    until("it waits", async || {
        harness.metric("ferrum_router_waiting_requests", "").await == 1.0
    })
    .await;
    sent.abort();
    until("it has left", async || {
        harness.metric("ferrum_router_waiting_requests", "").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn running_streams_finish_after_the_shutdown_has_begun_and_nothing_new_is_taken() {
    let (engine, mut harness) = engine_with(Answer::Events(3)).await;
    engine.allow_event();
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let mut events = request.send().await.expect("answers").bytes_stream();
    events.next().await.expect("an event").expect("whole");
    harness.stop();
    until("the door is closed", async || {
        tokio::net::TcpStream::connect(harness.address).await.is_err()
    })
    .await;
    engine.allow_event();
    engine.allow_event();
    let mut rest = Vec::new();
    while let Some(event) = events.next().await {
        rest.extend_from_slice(&event.expect("whole"));
    }
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    harness.await_stopped().await;
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_timeout_is_cut_off() {
    let engine = FakeEngine::start("a").await;
    engine.answer(Answer::EventThenHang);
    let mut harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let mut events = request.send().await.expect("answers").bytes_stream();
    events.next().await.expect("an event").expect("whole");
    harness.stop();
    harness.await_stopped().await;
    until("the replica is free again", async || engine.dropped() == 1).await;
}

#[tokio::test]
async fn an_answer_too_large_to_hold_is_passed_on_whole() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.max_held_answer_bytes = 8
    })
    .await;
    let (status, body) = harness.ask(chat()).await;
    assert_eq!((status, &body["replica"]), (200, &Value::from("a")));
    harness.await_idle().await;
}
