//! The router over an API server.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Harness, chat,
    clients::Clients,
    cluster::Cluster,
    fake::{Answer, FakeEngine},
    until,
};

/// A router over a cluster with the model `apps/m` and one pod.
async fn started() -> (Cluster, FakeEngine, Harness) {
    let engine = FakeEngine::start("one").await;
    let cluster = Cluster::start().await;
    cluster.model("apps", "m", json!({"spec": {}}));
    cluster.pod("apps", "m-1", &engine.url);
    let harness = Harness::of(cluster.router_config(&[])).await;
    harness.await_ready(1).await;
    (cluster, engine, harness)
}

/// Waits until the first model has so many replicas, ready or not.
async fn await_replicas(harness: &Harness, count: usize) {
    until("so many replicas", async || {
        harness.health().await["models"][0]["total"] == count
    })
    .await;
}

#[tokio::test]
async fn pods_of_a_model_are_its_replicas_and_a_model_without_one_is_known() {
    let (cluster, _engine, harness) = started().await;
    assert_eq!(harness.ask(chat()).await.1["replica"], "one");
    cluster.model("apps", "empty", json!({"spec": {"servedNames": ["e1", "e2"]}}));
    until("the second model is listed", async || {
        harness.health().await["models"]
            .as_array()
            .is_some_and(|models| models.len() == 2)
    })
    .await;
    let models = harness.get_json("/v1/models").await;
    let names: Vec<_> = models["data"]
        .as_array()
        .expect("list")
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["e1", "e2", "m"]);
}

#[tokio::test]
async fn only_the_namespaces_that_were_given_are_served() {
    let engine = FakeEngine::start("one").await;
    let cluster = Cluster::start().await;
    for namespace in ["a", "b", "c"] {
        cluster.model(
            namespace,
            "m",
            json!({"spec": {"servedNames": [format!("{namespace}-m")]}}),
        );
        cluster.pod(namespace, "m-1", &engine.url);
    }
    let harness = Harness::of(cluster.router_config(&["c", "a"])).await;
    harness.await_ready(1).await;
    let models = harness.get_json("/v1/models").await;
    let names: Vec<_> = models["data"]
        .as_array()
        .expect("list")
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(names, ["a-m", "c-m"]);
}

#[tokio::test]
async fn a_pod_gets_nothing_new_from_its_deletion_timestamp_on() {
    let (cluster, one, harness) = started().await;
    let two = FakeEngine::start("two").await;
    cluster.pod("apps", "m-2", &two.url);
    harness.await_ready(2).await;
    cluster.begin_deletion("apps", "m-1");
    harness.await_ready(1).await;
    let before = one.requests();
    for _ in 0..10 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "two");
    }
    assert_eq!(one.requests(), before);
}

#[tokio::test]
async fn what_is_deleted_while_no_watch_lives_is_forgotten_by_the_next_one() {
    for is_compacted in [false, true] {
        let (mut cluster, one, harness) = started().await;
        let two = FakeEngine::start("two").await;
        cluster.stop();
        cluster.delete("pods", "apps", "m-1");
        cluster.pod("apps", "m-2", &two.url);
        if is_compacted {
            cluster.compact();
        }
        // Nothing is heard: what was known stays in force.
        assert_eq!(harness.ask(chat()).await.1["replica"], "one");
        drop(one);
        cluster.restart();
        until("the new pod answers", async || {
            let health = harness.health().await;
            health["models"][0]["total"] == 1 && health["models"][0]["ready"] == 1
        })
        .await;
        assert_eq!(harness.ask(chat()).await.1["replica"], "two", "{is_compacted}");
    }
}

#[tokio::test]
async fn watches_that_break_off_under_load_disturb_no_request() {
    let (cluster, one, harness) = started().await;
    one.answer(Answer::Ok(Duration::from_millis(5)));
    let two = FakeEngine::start("two").await;
    two.answer(Answer::Ok(Duration::from_millis(5)));
    let clients = Clients::start(10, harness.url("/v1/chat/completions"));
    for round in 0..5 {
        let watches = cluster.watches();
        cluster.cut_watches();
        if round == 3 {
            cluster.compact();
        }
        if round % 2 == 0 {
            cluster.pod("apps", "m-2", &two.url);
        } else {
            cluster.delete("pods", "apps", "m-2");
        }
        await_replicas(&harness, 2 - round % 2).await;
        until("watches are back", async || cluster.watches() >= watches + 2).await;
        clients.await_more(20).await;
    }
    let outcome = clients.finish().await;
    assert_eq!((outcome.failures, outcome.broken_streams), (Vec::new(), 0));
}

#[tokio::test]
async fn an_api_server_that_is_gone_or_fails_does_nothing_to_traffic() {
    let (mut cluster, one, harness) = started().await;
    one.answer(Answer::Ok(Duration::from_millis(5)));
    let clients = Clients::start(10, harness.url("/v1/chat/completions"));
    cluster.stop();
    clients.await_more(100).await;
    // Back, but with its history lost and unable to list.
    cluster.compact();
    cluster.break_lists(true);
    let lists = cluster.lists();
    cluster.restart();
    until("lists fail", async || cluster.lists() >= lists + 2).await;
    clients.await_more(50).await;
    cluster.break_lists(false);
    let two = FakeEngine::start("two").await;
    cluster.pod("apps", "m-2", &two.url);
    harness.await_ready(2).await;
    let outcome = clients.finish().await;
    assert_eq!((outcome.failures, outcome.broken_streams), (Vec::new(), 0));
}

#[tokio::test]
async fn a_model_deleted_and_made_again_under_its_name_works_at_once() {
    let (cluster, _one, harness) = started().await;
    cluster.delete("ferrummodels", "apps", "m");
    until("it is unknown", async || harness.ask(chat()).await.0 == 404).await;
    let two = FakeEngine::start("two").await;
    cluster.model("apps", "m", json!({"spec": {}}));
    // The old pod is still there; it was made for the model that is gone.
    cluster.pod("apps", "m-2", &two.url);
    harness.await_ready(1).await;
    for _ in 0..6 {
        assert_eq!(harness.ask(chat()).await.1["replica"], "two");
    }
}

#[tokio::test]
async fn a_degraded_model_without_a_ready_replica_is_503_at_once_with_the_reason() {
    let cluster = Cluster::start().await;
    let condition =
        json!({"type": "Degraded", "status": "True", "reason": "x", "message": "the token is wrong"});
    let degraded = json!({"spec": {}, "status": {"conditions": [condition]}});
    cluster.model("apps", "m", degraded);
    let harness = Harness::of(cluster.router_config(&[])).await;
    until("the model is known", async || {
        harness.health().await["status"] == "ok"
    })
    .await;
    let began = Instant::now();
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(status, 503);
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains("the token is wrong"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(2));
    // It may be degraded and serve all the same.
    let engine = FakeEngine::start("one").await;
    cluster.pod("apps", "m-1", &engine.url);
    harness.await_ready(1).await;
    assert_eq!(harness.ask(chat()).await.0, 200);
}

#[tokio::test]
async fn a_wait_for_a_model_without_a_pod_ends_with_the_phase_of_its_status() {
    let cluster = Cluster::start().await;
    let condition = json!({"type": "WeightsCached", "status": "False", "message": "43 % of 8.1 GB"});
    cluster.model(
        "apps",
        "m",
        json!({"spec": {}, "status": {"conditions": [condition]}}),
    );
    let mut config = cluster.router_config(&[]);
    config.start_timeout = Duration::from_millis(300);
    let harness = Harness::of(config).await;
    until("the model is known", async || {
        harness.health().await["status"] == "ok"
    })
    .await;
    let (status, body) = harness.ask(chat()).await;
    assert_eq!(status, 503);
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains("weights: 43 % of 8.1 GB"), "{message}");
}
