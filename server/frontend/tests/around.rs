//! Keys, request ids, models, metrics: what is around the requests.

mod harness;

use ferrum_frontend::FrontendConfig;
use ferrum_sim::SimConfig;
use harness::{chat, chat_request, events, with_config};
use reqwest::StatusCode;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_key_is_asked_for_on_every_v1_route_and_nowhere_else() {
    let config = FrontendConfig {
        api_key: Some("secret".to_owned()),
        ..FrontendConfig::new("127.0.0.1", 0)
    };
    let server = with_config(config, SimConfig::default()).await;
    for open in ["/health", "/metrics", "/version"] {
        assert_eq!(server.get(open).await.status(), StatusCode::OK);
    }
    for key in [
        None,
        Some("Bearer secre"),
        Some("Bearer secrets"),
        Some("Bearer "),
        Some("secret"),
    ] {
        let mut request = server
            .client
            .post(format!("{}{CHAT}", server.url))
            .json(&chat_request(json!({})));
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{key:?}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["error"]["code"], "invalid_api_key");
    }
    let models = server
        .client
        .get(format!("{}/v1/models", server.url))
        .bearer_auth("secret")
        .send()
        .await;
    assert_eq!(models.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_large_body_with_a_wrong_key_is_answered() {
    let config = FrontendConfig {
        api_key: Some("secret".to_owned()),
        ..FrontendConfig::new("127.0.0.1", 0)
    };
    let server = with_config(config, SimConfig::default()).await;
    let response = server
        .post(CHAT, &chat_request(json!({"user": "x".repeat(4 << 20)})))
        .await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let server = chat(SimConfig::default()).await;
    let given = server
        .client
        .get(format!("{}/v1/models", server.url))
        .header("x-request-id", "abc-1")
        .send()
        .await;
    assert_eq!(given.expect("an answer").headers()["x-request-id"], "abc-1");
    for response in [server.get("/health").await, server.get("/nowhere").await] {
        assert!(response.headers()["x-request-id"].len() >= 32);
    }
}

#[tokio::test]
async fn models_are_listed_under_every_name() {
    let server = chat(SimConfig::default()).await;
    let list: Value = server.get("/v1/models").await.json().await.expect("JSON");
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    assert_eq!(names, ["sim", "org/other"]);
    let one: Value = server
        .get("/v1/models/org/other")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(one, list["data"][1]);
    assert_eq!(one["object"], "model");
    let none = server.get("/v1/models/other").await;
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        none.json::<Value>().await.expect("JSON")["error"]["code"],
        "model_not_found"
    );
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = chat(SimConfig {
        tpot_ms: 1,
        ..SimConfig::default()
    })
    .await;
    let answer = server
        .post_json(CHAT, &chat_request(json!({})), StatusCode::OK)
        .await;
    events(server.post(CHAT, &chat_request(json!({"stream": true}))).await).await;
    server
        .post_json(CHAT, &chat_request(json!({"n": 0})), StatusCode::BAD_REQUEST)
        .await;
    server
        .post_json(CHAT, &chat_request(json!({"model": "x"})), StatusCode::NOT_FOUND)
        .await;
    let generated = 2 * answer["usage"]["completion_tokens"].as_u64().expect("a number");
    let text = server.get("/metrics").await.text().await.expect("a body");
    for line in [
        "ferrum_engine_ready 1".to_owned(),
        "ferrum_engine_prompt_tokens_total 48".to_owned(),
        "ferrum_engine_cached_tokens_total 16".to_owned(),
        format!("ferrum_engine_generated_tokens_total {generated}"),
        "ferrum_engine_requests_total{outcome=\"finished\"} 2".to_owned(),
        "ferrum_engine_errors_total{code=\"model_not_found\"} 1".to_owned(),
        "ferrum_engine_errors_total{code=\"invalid_request_error\"} 1".to_owned(),
        "ferrum_engine_time_to_first_token_seconds_count 2".to_owned(),
        "ferrum_engine_time_per_output_token_seconds_count 2".to_owned(),
        "ferrum_engine_queue_duration_seconds_count 2".to_owned(),
        "ferrum_engine_request_duration_seconds_count 2".to_owned(),
        "ferrum_engine_running_requests 0".to_owned(),
        "ferrum_engine_kv_blocks 16384".to_owned(),
        "ferrum_engine_kv_blocks_free 16384".to_owned(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test]
async fn the_version_is_that_of_the_package() {
    let server = chat(SimConfig::default()).await;
    let version: Value = server.get("/version").await.json().await.expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}
