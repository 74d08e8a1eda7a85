//! A replica that fails is replaced, as long as nothing of its answer was sent on.

use std::time::{Duration, Instant};

use ferrum_api::telemetry::phase_change::Phase;
use futures_util::future::join_all;

use crate::support::{
    Harness, chat,
    fake::{Answer, FakeEngine, phase},
    raw::{Fault, RawFake},
    streamed_chat, until,
};

/// A failing replica and a good one; the failing one is chosen first in about half of the requests.
async fn with_fault(fault: Fault) -> (RawFake, FakeEngine, Harness) {
    let bad = RawFake::start(fault).await;
    let good = FakeEngine::start("good").await;
    let harness = Harness::start(&[bad.url.clone(), good.url.clone()], 2).await;
    (bad, good, harness)
}

#[tokio::test]
async fn a_request_that_breaks_before_it_is_answered_goes_to_another_replica() {
    for fault in [
        Fault::Close,
        Fault::ResetInHead,
        Fault::CloseInBody,
        Fault::Garbage,
    ] {
        let (bad, good, harness) = with_fault(fault).await;
        for _ in 0..4 {
            let (status, body) = harness.ask(chat()).await;
            assert_eq!((status, &body["replica"]), (200, &"good".into()), "{fault:?}");
        }
        assert!(bad.requests() >= 1, "{fault:?}: the bad one was never tried");
        assert_eq!(good.requests(), 4, "{fault:?}");
        harness.await_idle().await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_event_goes_to_another_replica() {
    let (bad, good, harness) = with_fault(Fault::CloseBeforeFirstEvent).await;
    good.answer(Answer::Events(1));
    for _ in 0..4 {
        good.allow_event();
        let (status, text) = harness.stream(streamed_chat()).await;
        assert_eq!(status, 200);
        assert_eq!(text, "data: {\"replica\":\"good\",\"n\":0}\n\ndata: [DONE]\n\n");
    }
    assert!(bad.requests() >= 1);
    harness.await_idle().await;
}

#[tokio::test]
async fn a_stream_whose_first_event_is_the_engines_failure_goes_to_another_replica() {
    let (bad, good, harness) = with_fault(Fault::ErrorFirst).await;
    good.answer(Answer::Events(1));
    for _ in 0..4 {
        good.allow_event();
        let (_, text) = harness.stream(streamed_chat()).await;
        assert!(text.starts_with("data: {\"replica\":\"good\""), "{text}");
    }
    assert!(bad.requests() >= 1);
    harness.await_idle().await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_no_failure() {
    let engine = RawFake::start(Fault::OneAnswerAConnection).await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    for _ in 0..5 {
        assert_eq!(harness.ask(chat()).await.0, 200);
    }
    assert_eq!(harness.metric("ferrum_router_retries_total", "").await, 0.0);
}

#[tokio::test]
async fn a_lone_replica_that_is_killed_and_comes_back_loses_no_whole_answer() {
    let engine = FakeEngine::start("first").await;
    engine.answer(Answer::Ok(Duration::from_secs(600)));
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    let asked = join_all((0..20).map(|_| harness.ask(chat())));
    let kill = async {
        until("all run", async || engine.requests() == 20).await;
        let address = engine.url.trim_start_matches("http://").to_owned();
        drop(engine);
        harness.await_ready(0).await;
        until("they wait for it", async || {
            harness.metric("ferrum_router_waiting_requests", "").await == 20.0
        })
        .await;
        let ready = phase(Phase::Ready, 0, 0);
        FakeEngine::at(&address, "second", ready, Answer::Ok(Duration::ZERO)).await
    };
    let (answers, _engine) = tokio::join!(asked, kill);
    let is_second = |(status, body): &(u16, serde_json::Value)| *status == 200 && body["replica"] == "second";
    assert!(answers.iter().all(is_second), "{answers:?}");
    harness.await_idle().await;
}

#[tokio::test]
async fn a_stream_that_has_begun_ends_with_an_error_event_and_is_not_repeated() {
    for fault in [Fault::CloseInSecondEvent, Fault::EndWithoutDone] {
        let bad = RawFake::start(fault).await;
        let harness = Harness::start(std::slice::from_ref(&bad.url), 1).await;
        let (status, text) = harness.stream(streamed_chat()).await;
        assert_eq!(status, 200);
        let mut events = text.split_terminator("\n\n");
        assert_eq!(events.next(), Some("data: {\"n\":1}"), "{fault:?}");
        let error = events
            .next()
            .and_then(|event| event.strip_prefix("data: "))
            .expect("an event");
        let error: serde_json::Value = serde_json::from_str(error).expect("JSON");
        assert_eq!(error["error"]["code"], "upstream_failed", "{fault:?}");
        assert_eq!(events.next(), None, "{fault:?}");
        assert_eq!(bad.requests(), 1, "{fault:?}");
        harness.await_idle().await;
    }
}

#[tokio::test]
async fn a_lone_replica_that_breaks_off_is_not_asked_twice_and_the_client_hears_502() {
    let bad = RawFake::start(Fault::Close).await;
    let harness = Harness::start(std::slice::from_ref(&bad.url), 1).await;
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(status, 502, "{body}");
    assert_eq!(body["error"]["code"], "upstream_failed");
    assert_eq!(bad.requests(), 1);
}

#[tokio::test]
async fn no_more_replicas_are_tried_than_the_bound_and_none_twice() {
    let mut bad = Vec::new();
    for _ in 0..6 {
        bad.push(RawFake::start(Fault::Close).await);
    }
    let urls: Vec<_> = bad.iter().map(|fake| fake.url.clone()).collect();
    let harness = Harness::with(&urls, 6, |config| config.max_attempts = 3).await;
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(status, 502);
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("3 replicas")),
        "{body}"
    );
    let mut tried: Vec<_> = bad.iter().map(RawFake::requests).collect();
    tried.sort_unstable();
    assert_eq!(tried, [0, 0, 0, 1, 1, 1]);
}

#[tokio::test]
async fn a_replica_that_says_429_or_503_is_left_for_another() {
    for status in [429, 503] {
        let busy = FakeEngine::start("busy").await;
        busy.answer(Answer::Status(status));
        let good = FakeEngine::start("good").await;
        let harness = Harness::start(&[busy.url.clone(), good.url.clone()], 2).await;
        for _ in 0..4 {
            let (answered, body) = harness.ask(chat()).await;
            assert_eq!((answered, &body["replica"]), (200, &"good".into()), "{status}");
        }
        assert!(busy.requests() >= 1, "{status}: never tried");
    }
}

#[tokio::test]
async fn a_clients_error_comes_back_unchanged_and_never_counts_against_a_replica() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    for status in [400, 404, 413, 422] {
        engine.answer(Answer::Status(status));
        for _ in 0..20 {
            let (answered, body) = harness.ask(chat()).await;
            assert_eq!(answered, status);
            assert_eq!(body["error"]["message"], "as told");
        }
    }
    engine.answer(Answer::Ok(Duration::ZERO));
    let began = Instant::now();
    assert_eq!(harness.ask(chat()).await.0, 200);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(engine.requests(), 81);
    assert_eq!(harness.metric("ferrum_router_retries_total", "").await, 0.0);
}

#[tokio::test]
async fn a_replicas_own_error_is_tried_once_elsewhere_and_else_passed_on() {
    let (sick, good) = (FakeEngine::start("sick").await, FakeEngine::start("good").await);
    sick.answer(Answer::Status(500));
    let harness = Harness::start(&[sick.url.clone(), good.url.clone()], 2).await;
    for _ in 0..4 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "good");
    }
    assert!(sick.requests() >= 1);
    good.answer(Answer::Status(500));
    let (status, body) = harness.ask(chat()).await;
    assert_eq!((status, &body["error"]["message"]), (500, &"as told".into()));
}

#[tokio::test]
async fn a_replica_that_fails_is_left_alone_for_a_while() {
    let (bad, good, harness) = with_fault(Fault::Close).await;
    let began = loop {
        let asked = Instant::now();
        assert_eq!(harness.ask(chat()).await.0, 200);
        if bad.requests() > 0 {
            break asked;
        }
    };
    let before = good.requests();
    loop {
        assert_eq!(harness.ask(chat()).await.0, 200);
        // However slow this machine is: what is looked at now was chosen before.
        if began.elapsed() >= Duration::from_millis(250) {
            break;
        }
        assert_eq!(bad.requests(), 1, "asked again within its first 250 ms");
    }
    assert!(good.requests() > before);
}
