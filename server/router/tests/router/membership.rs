//! Replicas that come and go, and the counts on them.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    Harness, chat,
    clients::Clients,
    fake::{Answer, FakeEngine},
    raw::{Fault, RawFake},
    replica, streamed_chat, until,
};

#[tokio::test]
async fn replicas_come_and_go_under_load_without_a_failed_request() {
    let first = FakeEngine::start("first").await;
    first.answer(Answer::Ok(Duration::from_millis(5)));
    let mut harness = Harness::start(std::slice::from_ref(&first.url), 1).await;
    let clients = Clients::start(20, harness.url("/v1/chat/completions"));
    let mut engines = vec![first];
    for round in 0..6 {
        let engine = FakeEngine::start(&format!("e{round}")).await;
        engine.answer(Answer::Ok(Duration::from_millis(5)));
        harness.rewrite(|list| list.replicas.push(replica(&format!("x{round}"), &engine.url)));
        engines.push(engine);
        harness.await_ready(2).await;
        clients.await_more(60).await;
        // Out of the list first, gone only when nothing runs there any more.
        let gone = engines.remove(0);
        harness.rewrite(|list| list.replicas.retain(|entry| entry.url != gone.url));
        harness.await_ready(1).await;
        until("it has finished", async || {
            gone.shared.running.load(Ordering::SeqCst) == 0
        })
        .await;
        let after = gone.requests();
        clients.await_more(20).await;
        assert_eq!(
            gone.requests(),
            after,
            "asked although it is no longer in the list"
        );
    }
    let outcome = clients.finish().await;
    assert_eq!((outcome.failures, outcome.broken_streams), (Vec::new(), 0));
    harness.await_idle().await;
}

#[tokio::test]
async fn a_replica_marked_as_draining_finishes_what_it_has_and_gets_nothing_new() {
    let (one, two) = (FakeEngine::start("one").await, FakeEngine::start("two").await);
    one.answer(Answer::EventThenHang);
    let mut harness = Harness::start(std::slice::from_ref(&one.url), 1).await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&streamed_chat());
    let running = request.send().await.expect("begins");
    harness.rewrite(|list| {
        list.replicas[0].draining = true;
        list.replicas.push(replica("two", &two.url));
    });
    until("the other takes over", async || {
        let model = &harness.health().await["models"][0];
        model["total"] == 2 && model["ready"] == 1
    })
    .await;
    for _ in 0..10 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "two");
    }
    assert_eq!((one.requests(), one.dropped()), (1, 0), "its stream was cut");
    drop(running);
    until("it is free", async || one.dropped() == 1).await;
}

#[tokio::test]
async fn a_burst_of_simultaneous_requests_spreads_evenly() {
    let mut engines = Vec::new();
    for index in 0..4 {
        let engine = FakeEngine::start(&format!("e{index}")).await;
        engine.answer(Answer::Ok(Duration::from_millis(300)));
        engines.push(engine);
    }
    let urls: Vec<_> = engines.iter().map(|engine| engine.url.clone()).collect();
    let harness = Harness::start(&urls, 4).await;
    let answers = join_all((0..40).map(|_| harness.ask(chat()))).await;
    let mut counts: HashMap<String, usize> = HashMap::new();
    for (status, body) in answers {
        assert_eq!(status, 200);
        *counts.entry(body["replica"].to_string()).or_default() += 1;
    }
    assert!(
        counts.len() == 4 && counts.values().all(|&count| count == 10),
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_long_request_weighs_more_than_short_ones() {
    let (one, two) = (FakeEngine::start("one").await, FakeEngine::start("two").await);
    for engine in [&one, &two] {
        engine.answer(Answer::Ok(Duration::from_millis(400)));
    }
    let harness = Harness::start(&[one.url.clone(), two.url.clone()], 2).await;
    let mut long = chat();
    long["messages"][0]["content"] = Value::from("word ".repeat(4_000)); // about 5,000 tokens
    let asked = harness.ask(long);
    let short = async {
        until("the long one runs", async || one.requests() + two.requests() == 1).await;
        join_all((0..8).map(|_| harness.ask(chat()))).await
    };
    let ((_, long), short) = tokio::join!(asked, short);
    assert!(
        short.iter().all(|(_, body)| body["replica"] != long["replica"]),
        "{long} {short:?}"
    );
}

#[tokio::test]
async fn nothing_stays_counted_after_chaos() {
    let mut faults = Vec::new();
    for fault in [
        Fault::Close,
        Fault::ResetInHead,
        Fault::CloseInBody,
        Fault::CloseBeforeFirstEvent,
        Fault::CloseInSecondEvent,
        Fault::EndWithoutDone,
        Fault::Garbage,
        Fault::Hang,
    ] {
        faults.push(RawFake::start(fault).await);
    }
    let good = FakeEngine::start("good").await;
    good.answer(Answer::Ok(Duration::from_millis(20)));
    let mut urls: Vec<_> = faults.iter().map(|fake| fake.url.clone()).collect();
    urls.push(good.url.clone());
    let harness = Harness::start(&urls, urls.len()).await;
    let asked = (0..200).map(|index| {
        let body = if index % 2 == 0 { chat() } else { streamed_chat() };
        let request = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&body);
        async move {
            // Some clients leave in the middle; those that hang on the hanging replica have to.
            let patience = Duration::from_millis(if index % 3 == 0 { 5 } else { 1_500 });
            let _ = tokio::time::timeout(patience, async { request.send().await?.bytes().await }).await;
        }
    });
    join_all(asked).await;
    assert!(harness.metric("ferrum_router_retries_total", "").await > 0.0);
    harness.await_idle().await;
    assert_eq!(good.shared.running.load(Ordering::SeqCst), 0);
    until("and the router still answers", async || {
        let request = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&json!({"model": "none"}));
        request.send().await.expect("answers").status() == 404
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_was_started_with_other_names_is_not_asked_for_the_new_one() {
    let (old, new) = (FakeEngine::start("old").await, FakeEngine::start("new").await);
    *old.shared.served_names.lock().expect("lock") = vec!["before".to_owned()];
    *new.shared.served_names.lock().expect("lock") = vec!["m".to_owned()];
    let mut harness = Harness::start(std::slice::from_ref(&old.url), 1).await;
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&chat());
    let held = tokio::spawn(request.send());
    until("it is held", async || {
        harness.metric("ferrum_router_waiting_requests", "").await == 1.0
    })
    .await;
    harness.rewrite(|list| list.replicas.push(replica("new", &new.url)));
    let answer = held.await.expect("no panic").expect("answers");
    assert_eq!(answer.status(), 200);
    assert_eq!((old.requests(), new.requests()), (0, 1));
}
