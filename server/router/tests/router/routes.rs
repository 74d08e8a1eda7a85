//! What the router answers itself.

use std::time::Duration;

use ferrum_api::telemetry::phase_change::Phase;
use ferrum_engine::Task;
use ferrum_router::{ApiKey, ModelEntry};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Harness, chat,
    fake::{Answer, FakeEngine, phase},
    model,
};

async fn one_engine() -> (FakeEngine, Harness) {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::start(std::slice::from_ref(&engine.url), 1).await;
    (engine, harness)
}

async fn send(harness: &Harness, method: Method, path: &str, body: &'static str) -> (u16, Value) {
    let request = harness.client.request(method, harness.url(path)).body(body);
    let response = request.send().await.expect("answers");
    let status = response.status().as_u16();
    (status, response.json().await.expect("an error body"))
}

#[tokio::test]
async fn every_served_name_is_a_model_and_can_be_asked_for() {
    let (_engine, mut harness) = one_engine().await;
    harness.rewrite(|endpoints| {
        endpoints.models[0].served_names = vec!["m".to_owned(), "org/m".to_owned()];
        endpoints.models.push(ModelEntry {
            task: Task::Embedding,
            ..model("vectors")
        });
    });
    crate::support::until("the new list is in force", async || {
        let list = send(&harness, Method::GET, "/v1/models", "").await.1;
        let models = list["data"].as_array().expect("a list");
        let ids: Vec<_> = models.iter().map(|model| model["id"].clone()).collect();
        list["object"] == "list" && ids == ["m", "org/m", "vectors"]
    })
    .await;
    for path in ["/v1/models/org/m", "/v1/models/org%2Fm"] {
        let (status, model) = send(&harness, Method::GET, path, "").await;
        assert_eq!(
            (status, &model["id"], &model["object"]),
            (200, &json!("org/m"), &json!("model"))
        );
        assert!(
            model["created"]
                .as_u64()
                .is_some_and(|seconds| seconds > 1_700_000_000)
        );
        assert_eq!(model["max_model_len"], 2048);
    }
    let (status, error) = send(&harness, Method::GET, "/v1/models/other", "").await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn an_unknown_model_is_answered_with_those_that_are_served() {
    let (engine, harness) = one_engine().await;
    let (status, body) = harness.ask(json!({"model": "gpt-4", "messages": []})).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(body["error"]["param"], "model");
    assert_eq!(body["error"]["message"], "no model `gpt-4`: expected one of `m`");
    assert_eq!(engine.requests(), 0);
}

#[tokio::test]
async fn bad_requests_are_refused_in_openais_shape_before_they_reach_a_replica() {
    let (engine, harness) = one_engine().await;
    let chat = "/v1/chat/completions";
    let cases = [
        (
            Method::POST,
            chat,
            "{\"model\":",
            400,
            "invalid_request_error",
            Value::Null,
        ),
        (
            Method::POST,
            chat,
            "{\"model\":\"m\",\"top_p\":NaN}",
            400,
            "invalid_request_error",
            json!("top_p"),
        ),
        (
            Method::POST,
            chat,
            "{}",
            400,
            "invalid_request_error",
            json!("model"),
        ),
        (
            Method::POST,
            chat,
            "{\"model\":7}",
            400,
            "invalid_request_error",
            json!("model"),
        ),
        (
            Method::POST,
            "/v1/embeddings",
            "[]",
            400,
            "invalid_request_error",
            Value::Null,
        ),
        (
            Method::POST,
            "/v1/nothing",
            "{}",
            404,
            "invalid_request_error",
            Value::Null,
        ),
        (Method::GET, "/", "", 404, "invalid_request_error", Value::Null),
        (Method::GET, chat, "", 405, "invalid_request_error", Value::Null),
        (
            Method::DELETE,
            "/v1/models",
            "",
            405,
            "invalid_request_error",
            Value::Null,
        ),
    ];
    for (method, path, body, status, error_type, param) in cases {
        let (answered, error) = send(&harness, method.clone(), path, body).await;
        assert_eq!(answered, status, "{method} {path} {body}: {error}");
        assert_eq!(error["error"]["type"], error_type, "{path} {body}");
        assert!(
            error["error"]["message"]
                .as_str()
                .is_some_and(|text| text.len() > 8),
            "{error}"
        );
        if param != Value::Null || status != 400 {
            assert_eq!(error["error"]["param"], param, "{path} {body}");
        }
    }
    assert_eq!(engine.requests(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_also_for_a_client_that_writes_it_all_first() {
    let (_engine, harness) = one_engine().await;
    let body = vec![b' '; 10 << 20];
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .body(body);
    let response = request.send().await.expect("an answer, not a reset");
    assert_eq!(response.status(), 413);
    let error: Value = response.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], "request_too_large");

    let mut stream = tokio::net::TcpStream::connect(harness.address)
        .await
        .expect("connects");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 90000000\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("writes");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("reads");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn the_body_the_path_and_harmless_headers_reach_the_replica_unchanged() {
    let (engine, harness) = one_engine().await;
    let body = "{ \"model\":\"m\",\n \"messages\": [], \"unknown\": 1.50 }";
    let request = harness
        .client
        .post(harness.url("/v1/completions?trace=1"))
        .header("x-request-id", "id-7")
        .header("traceparent", "00-1")
        .header("authorization", "Bearer secret")
        .body(body);
    let response = request.send().await.expect("answers");
    assert_eq!(response.headers()["x-request-id"], "id-7");
    let seen = engine.shared.seen.lock().expect("lock").pop().expect("a request");
    let (headers, uri, bytes) = seen;
    assert_eq!(bytes, body);
    assert_eq!(uri, "/v1/completions?trace=1");
    assert_eq!(headers["x-request-id"], "id-7");
    assert_eq!(headers["traceparent"], "00-1");
    assert_eq!(
        headers["authorization"], "Bearer secret",
        "the router has no key, so it is the replica's"
    );
    let response = harness
        .client
        .get(harness.url("/nowhere"))
        .send()
        .await
        .expect("answers");
    assert_eq!(response.headers()["x-request-id"].len(), 36, "an id of its own");
}

#[tokio::test]
async fn with_a_key_set_only_its_holders_reach_v1() {
    let engine = FakeEngine::start("a").await;
    let harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.api_key = Some(ApiKey::from("sk-right".to_owned()));
    })
    .await;
    for key in [None, Some("sk-wrong"), Some("sk-righ")] {
        let mut request = harness
            .client
            .post(harness.url("/v1/chat/completions"))
            .json(&chat());
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.expect("answers");
        assert_eq!(response.status(), 401, "{key:?}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    assert_eq!(engine.requests(), 0);
    let request = harness
        .client
        .get(harness.url("/v1/models"))
        .bearer_auth("sk-right");
    assert_eq!(request.send().await.expect("answers").status(), 200);
    assert_eq!(
        harness
            .client
            .get(harness.url("/metrics"))
            .send()
            .await
            .expect("answers")
            .status(),
        200
    );
}

#[tokio::test]
async fn health_tells_how_many_replicas_of_each_model_are_ready_and_where_they_stand() {
    let loading = FakeEngine::with("a", phase(Phase::Loading, 120, 272), Answer::Ok(Duration::ZERO)).await;
    let harness = Harness::start(std::slice::from_ref(&loading.url), 0).await;
    crate::support::until("the phase is told", async || {
        let model = &harness.health().await["models"][0];
        model["phase"] == "loading: 120 of 272 tensors" && model["total"] == 1 && model["ready"] == 0
    })
    .await;
    loading.set_phase(phase(Phase::Ready, 0, 0));
    harness.await_ready(1).await;
    let health = harness.health().await;
    assert_eq!(
        (&health["status"], &health["models"][0]["phase"]),
        (&json!("ok"), &json!("ready"))
    );
}

#[tokio::test]
async fn metrics_have_a_bounded_number_of_series_whatever_clients_send() {
    let (_engine, harness) = one_engine().await;
    assert_eq!(harness.ask(chat()).await.0, 200);
    for index in 0..50 {
        harness.ask(json!({"model": format!("x{index}")})).await;
        send(&harness, Method::GET, "/v1/models/x", "").await;
    }
    assert_eq!(
        harness
            .metric("ferrum_router_requests_total", "model=\"m\"")
            .await,
        1.0
    );
    assert_eq!(
        harness
            .metric("ferrum_router_requests_total", "model=\"other\",route=\"/v1/chat")
            .await,
        50.0
    );
    let text = harness.metrics().await;
    assert!(!text.contains("x49"), "a client made a series");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("ferrum_router_"), "{line}");
    }
}

#[tokio::test]
async fn the_bodies_that_are_held_have_a_bound_together() {
    let engine = FakeEngine::start("a").await;
    engine.answer(Answer::Ok(Duration::from_secs(600)));
    let harness = Harness::with(std::slice::from_ref(&engine.url), 1, |config| {
        config.max_body_bytes = 1 << 20;
        config.max_bodies_bytes = 1 << 20;
    })
    .await;
    let mut large = chat();
    large["messages"][0]["content"] = Value::from("x".repeat(700_000));
    let request = harness
        .client
        .post(harness.url("/v1/chat/completions"))
        .json(&large);
    let held = tokio::spawn(request.send());
    crate::support::until("it is held", async || engine.requests() == 1).await;
    let (status, body) = harness.ask(large).await;
    assert_eq!((status, &body["error"]["code"]), (429, &json!("overloaded")));
    held.abort();
    crate::support::until("it is given back", async || {
        harness.metric("ferrum_router_client_disconnects_total", "").await == 1.0
    })
    .await;
    engine.answer(Answer::Ok(Duration::ZERO));
    assert_eq!(harness.ask(chat()).await.0, 200);
}
