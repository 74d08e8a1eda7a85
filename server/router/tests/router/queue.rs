//! Requests that wait.

use std::time::{Duration, Instant};

use ferrum_api::telemetry::phase_change::Phase;
use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{
    Harness, chat,
    fake::{Answer, FakeEngine, phase},
    streamed_chat, until,
};

async fn loading_engine() -> FakeEngine {
    FakeEngine::with("a", phase(Phase::Loading, 120, 272), Answer::Ok(Duration::ZERO)).await
}

async fn await_waiting(harness: &Harness, count: f64) {
    until("requests wait", async || {
        harness.metric("ferrum_router_waiting_requests", "").await == count
    })
    .await;
}

#[tokio::test]
async fn requests_for_a_model_that_loads_wait_and_all_succeed_once_it_is_ready() {
    let engine = loading_engine().await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 0).await;
    let asked = join_all((0..20).map(|_| harness.ask(chat())));
    let ready = async {
        await_waiting(&harness, 20.0).await;
        assert_eq!(engine.requests(), 0);
        engine.set_phase(phase(Phase::Ready, 0, 0));
    };
    let (answers, ()) = tokio::join!(asked, ready);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(
        harness.metric("ferrum_router_queue_wait_seconds_count", "").await,
        20.0
    );
}

#[tokio::test]
async fn one_more_than_the_queue_holds_is_503_with_the_phase_and_retry_after() {
    let engine = loading_engine().await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.queue_limit = 3
    })
    .await;
    let asked = join_all((0..3).map(|_| harness.ask(chat())));
    let one_more = async {
        await_waiting(&harness, 3.0).await;
        until("its phase is heard", async || {
            harness.health().await["models"][0]["phase"] == "loading: 120 of 272 tensors"
        })
        .await;
        let response = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&chat())
            .send()
            .await
            .expect("answers");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        let error: Value = response.json().await.expect("JSON");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains("loading: 120 of 272 tensors"), "{message}");
        engine.set_phase(phase(Phase::Ready, 0, 0));
    };
    let (answers, ()) = tokio::join!(asked, one_more);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test]
async fn a_wait_that_is_too_long_ends_with_503_and_the_phase() {
    let engine = loading_engine().await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.start_timeout = Duration::from_millis(1_200);
    })
    .await;
    let began = Instant::now();
    let response = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat())
        .send()
        .await
        .expect("answers");
    assert!(began.elapsed() >= Duration::from_millis(1_200));
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let error: Value = response.json().await.expect("JSON");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(message.contains("loading: 120 of 272 tensors"), "{message}");
}

#[tokio::test]
async fn a_stream_that_is_held_gets_comments_with_the_phase_and_then_its_events() {
    let engine = loading_engine().await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.comment_after = Duration::from_millis(100);
    })
    .await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let mut response = request.send().await.expect("begins although no replica is ready");
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let first = response.chunk().await.expect("no error").expect("a comment");
    assert_eq!(first, ": waiting loading: 120 of 272 tensors\n\n");
    engine.set_phase(phase(Phase::Ready, 0, 0));
    let mut rest = String::new();
    while let Some(piece) = response.chunk().await.expect("no error") {
        rest.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(
        rest.ends_with("data: {\"replica\":\"a\"}\n\ndata: [DONE]\n\n"),
        "{rest}"
    );
}

#[tokio::test]
async fn a_stream_that_was_begun_while_it_was_held_ends_with_an_error_event() {
    let engine = loading_engine().await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.comment_after = Duration::from_millis(100);
        config.start_timeout = Duration::from_millis(400);
    })
    .await;
    let (status, text) = harness.stream(streamed_chat()).await;
    assert_eq!(status, 200);
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").expect(last)).expect(last);
    assert_eq!(error["error"]["type"], "service_unavailable_error", "{text}");
    // One that is refused before that has its status.
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.start_timeout = Duration::from_millis(100);
    })
    .await;
    assert_eq!(harness.stream(streamed_chat()).await.0, 503);
}

#[tokio::test]
async fn the_wait_for_a_first_replica_does_not_count_as_wait_for_room() {
    let engine = loading_engine().await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 0, |config| {
        config.queue_timeout = Duration::from_millis(900);
    })
    .await;
    engine.answer(Answer::Status(429));
    let asked = harness.ask(chat());
    let begun = async {
        await_waiting(&harness, 1.0).await;
        tokio::time::sleep(Duration::from_millis(1_000)).await; // longer than a wait for room may be
        engine.set_phase(phase(Phase::Ready, 0, 0));
        until("it is full", async || engine.requests() > 0).await;
        engine.answer(Answer::Ok(Duration::ZERO));
    };
    let ((status, body), ()) = tokio::join!(asked, begun);
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_model_that_failed_is_503_at_once_also_for_those_that_wait() {
    let engine = loading_engine().await;
    let mut harness = Harness::start(std::slice::from_ref(&engine.url), 0).await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat());
    let waiting = tokio::spawn(request.send());
    await_waiting(&harness, 1.0).await;
    harness.rewrite(|endpoints| {
        endpoints.replicas.clear();
        endpoints.models[0].message = Some("weights: checksum of model.safetensors is wrong".to_owned());
    });
    let waited = waiting.await.expect("no panic").expect("answers");
    assert_eq!(waited.status(), 503);
    let began = Instant::now();
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(status, 503);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("checksum")),
        "{body}"
    );
}

#[tokio::test]
async fn a_model_that_is_removed_is_404_for_those_that_wait() {
    let engine = loading_engine().await;
    let mut harness = Harness::start(std::slice::from_ref(&engine.url), 0).await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat());
    let waiting = tokio::spawn(request.send());
    await_waiting(&harness, 1.0).await;
    harness.rewrite(|endpoints| {
        endpoints.replicas.clear();
        endpoints.models.clear();
    });
    assert_eq!(waiting.await.expect("no panic").expect("answers").status(), 404);
}

#[tokio::test]
async fn requests_that_every_replica_sent_away_wait_for_room_without_a_storm() {
    let (one, two) = (FakeEngine::start("one").await, FakeEngine::start("two").await);
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    for engine in [&one, &two] {
        engine.answer(Answer::Status(429));
    }
    let asked = join_all((0..10).map(|_| harness.ask(chat())));
    let room = async {
        await_waiting(&harness, 10.0).await;
        tokio::time::sleep(Duration::from_millis(600)).await; // long enough for a storm to show
        let refused = one.requests() + two.requests();
        assert!(refused <= 30, "{refused} requests to replicas that are full");
        one.answer(Answer::Ok(Duration::ZERO));
    };
    let (answers, ()) = tokio::join!(asked, room);
    assert!(
        answers
            .iter()
            .all(|(status, body)| *status == 200 && body["replica"] == "one"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn replicas_that_stay_full_end_the_wait_with_429() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.queue_timeout = Duration::from_millis(400);
    })
    .await;
    engine.answer(Answer::Status(429));
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (429, &Value::from("rate_limit_error")),
        "{body}"
    );
}

#[tokio::test]
async fn a_router_without_any_list_says_so_and_begins_when_it_comes() {
    let engine = FakeEngine::start("a").await;
    let mut harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    // A second router whose file is not there yet.
    let path = harness.folder.path().join("later.json");
    let router = ferrum_router::Router::bind(ferrum_router::RouterConfig::new(&path))
        .await
        .expect("binds");
    let address = router.local_addr();
    let serving = tokio::spawn(router.serve(std::future::pending()));
    let health = || async {
        harness
            .client
            .get(format!("http://{address}/health"))
            .send()
            .await
            .expect("answers")
    };
    assert_eq!(health().await.status(), 503);
    let url = format!("http://{address}/v1/chat/completions");
    assert_eq!(
        harness
            .client
            .post(&url)
            .json(&chat())
            .send()
            .await
            .expect("answers")
            .status(),
        503
    );
    harness.endpoints.write_atomically(&path).expect("writes");
    until("it has its list", async || health().await.status() == 200).await;
    assert_eq!(
        harness
            .client
            .post(&url)
            .json(&chat())
            .send()
            .await
            .expect("answers")
            .status(),
        200
    );
    serving.abort();
    harness.stop();
}
