//! What a replica tells, and what happens when it stops telling.

use std::{sync::atomic::Ordering, time::Duration};

use ferrum_api::telemetry::{Load, phase_change::Phase};
use ferrum_router::RouterConfig;
use futures_util::future::join_all;

use crate::support::{
    Harness, chat,
    fake::{Answer, FakeEngine, phase},
    raw::{Fault, RawFake},
    streamed_chat, until,
};

/// Times short enough for a test.
fn quick(config: &mut RouterConfig) {
    config.telemetry.grace = Duration::from_millis(300);
    config.telemetry.vanished_after = Duration::from_millis(600);
    config.telemetry.max_backoff = Duration::from_millis(100);
}

#[tokio::test]
async fn a_replica_that_says_it_drains_gets_nothing_new() {
    let (one, two) = (FakeEngine::start("one").await, FakeEngine::start("two").await);
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    one.set_phase(phase(Phase::Draining, 0, 0));
    harness.await_ready(1).await;
    for _ in 0..10 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "two");
    }
    one.set_phase(phase(Phase::Ready, 0, 0));
    harness.await_ready(2).await;
}

#[tokio::test]
async fn a_missing_message_opens_a_new_stream_and_loses_no_request() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    assert_eq!(engine.shared.watches.load(Ordering::SeqCst), 1);
    engine.skip_a_message();
    until("a new stream", async || {
        assert_eq!(harness.ask(chat()).await.0, 200);
        engine.shared.watches.load(Ordering::SeqCst) == 2
    })
    .await;
    engine.set_phase(phase(Phase::Draining, 0, 0));
    harness.await_ready(0).await;
}

#[tokio::test]
async fn losing_telemetry_for_good_does_not_black_out_a_replica_that_answers() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 1, quick).await;
    engine.shared.speaks_grpc.store(false, Ordering::SeqCst);
    engine.cut_telemetry();
    let end = tokio::time::Instant::now() + Duration::from_secs(1); // three times the grace
    while tokio::time::Instant::now() < end {
        assert_eq!(harness.ask(chat()).await.0, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await; // and with no request that could prove anything
    assert_eq!(harness.ask(chat()).await.0, 200);
    // Its own word about being ready is still heard.
    engine.set_phase(phase(Phase::Loading, 0, 0));
    harness.await_ready(0).await;
    engine.shared.speaks_grpc.store(true, Ordering::SeqCst);
    engine.set_phase(phase(Phase::Ready, 0, 0));
    harness.await_ready(1).await;
}

#[tokio::test]
async fn a_replica_that_dies_is_out_at_once_and_its_requests_move() {
    let dying = FakeEngine::start("dying").await;
    let good = FakeEngine::start("good").await;
    let harness = Harness::start(&[dying.url.clone(), good.url.clone()], 2).await;
    for engine in [&dying, &good] {
        engine.answer(Answer::Ok(Duration::from_millis(300)));
    }
    let asked = join_all((0..20).map(|_| harness.ask(chat())));
    let death = async {
        until("both work", async || {
            dying.requests() == 10 && good.requests() == 10
        })
        .await;
        drop(dying);
    };
    let (answers, ()) = tokio::join!(asked, death);
    let moved = |(status, body): &(u16, serde_json::Value)| *status == 200 && body["replica"] == "good";
    assert!(answers.iter().all(moved), "{answers:?}");
    let died = std::time::Instant::now();
    harness.await_ready(1).await;
    assert!(
        died.elapsed() < Duration::from_secs(1),
        "still ready {:?} later",
        died.elapsed()
    );
    harness.await_idle().await;
}

#[tokio::test]
async fn requests_to_a_replica_that_vanished_move_to_another() {
    // It accepts and never answers, as a machine does whose processes hang.
    let hanging = RawFake::start(Fault::Hang).await;
    let good = FakeEngine::start("good").await;
    let harness = Harness::with(&[hanging.url.clone(), good.url.clone()], 2, quick).await;
    let asked = join_all((0..6).map(|_| harness.ask(chat())));
    let vanish = async {
        until("it was asked", async || hanging.requests() > 0).await;
        hanging.hang_health();
    };
    let (answers, ()) = tokio::join!(asked, vanish);
    assert!(
        answers
            .iter()
            .all(|(status, body)| *status == 200 && body["replica"] == "good"),
        "{answers:?}"
    );
    harness.await_ready(1).await;
    harness.await_idle().await;
}

#[tokio::test]
async fn a_stream_that_hangs_on_a_replica_that_vanished_ends_with_an_error_event() {
    let hanging = RawFake::start(Fault::HangAfterFirstEvent).await;
    let harness = Harness::with(std::slice::from_ref(&hanging.url), 1, quick).await;
    let streamed = harness.stream(streamed_chat());
    let vanish = async {
        until("it was asked", async || hanging.requests() > 0).await;
        hanging.hang_health();
    };
    let ((status, text), ()) = tokio::join!(streamed, vanish);
    assert_eq!(status, 200);
    assert!(text.starts_with("data: {\"n\":1}\n\ndata: {\"error\""), "{text}");
}

#[tokio::test]
async fn work_that_others_gave_a_replica_counts() {
    let (one, two) = (FakeEngine::start("one").await, FakeEngine::start("two").await);
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    one.set_load(Load {
        waiting_requests: 3,
        queued_prefill_tokens: 50_000,
        ..Load::default()
    });
    until("the load is heard", async || {
        harness
            .metric("ferrum_router_replica_queued_prefill_tokens", "r0")
            .await
            == 50_000.0
    })
    .await;
    for _ in 0..10 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "two");
    }
    one.set_load(Load::default());
    until("one is used again", async || {
        harness.ask(chat()).await.1["replica"] == "one"
    })
    .await;
}
