//! Loading, ready, draining, failed: what a client sees of it.

mod harness;

use std::time::Duration;

use ferrum_engine::Phase;
use ferrum_frontend::{FrontendConfig, FrontendError};
use ferrum_sim::SimConfig;
use harness::{LIMIT, chat, chat_request, events, launch_config, loading, streamed_text, with_config};
use reqwest::StatusCode;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn config() -> FrontendConfig {
    FrontendConfig::new("127.0.0.1", 0)
}

#[tokio::test]
async fn a_loading_model_is_explained_and_a_loaded_one_is_ready() {
    let server = loading(config(), launch_config(), SimConfig::default()).await;
    server.set_phase(Phase::Loading { done: 3, total: 10 });
    let health = server.get("/health").await;
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        health.json::<Value>().await.expect("JSON"),
        json!({"phase": "loading", "done": 3, "total": 10})
    );
    for response in [
        server.get("/v1/models").await,
        server.post(CHAT, &chat_request(json!({}))).await,
    ] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["error"]["code"], "loading");
        assert!(
            body["error"]["message"]
                .as_str()
                .expect("text")
                .contains("3 of 10 tensors"),
            "{body}"
        );
    }
    // Only an engine makes it ready.
    server.set_phase(Phase::Ready);
    assert_eq!(
        server.get("/health").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    server.install().await;
    let health = server.get("/health").await;
    assert_eq!(health.status(), StatusCode::OK);
    assert_eq!(
        health.json::<Value>().await.expect("JSON"),
        json!({"phase": "ready"})
    );
}

#[tokio::test]
async fn a_model_that_cannot_load_says_why() {
    let server = loading(config(), launch_config(), SimConfig::default()).await;
    server.set_phase(Phase::Failed {
        message: "no such file".to_owned(),
    });
    let body: Value = server
        .post(CHAT, &chat_request(json!({})))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(body["error"]["code"], "failed");
    assert_eq!(
        body["error"]["message"],
        "the model could not be served: no such file"
    );
}

#[tokio::test]
async fn draining_finishes_what_runs_refuses_what_is_new_and_ends() {
    let mut server = chat(SimConfig {
        tpot_ms: 10,
        ..SimConfig::default()
    })
    .await;
    let whole = server
        .post(CHAT, &chat_request(json!({})))
        .await
        .json::<Value>()
        .await
        .expect("JSON");
    let running = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    server.shut_down();
    let refused = loop {
        // The phase changes as soon as the shutdown is seen.
        let response = server.post(CHAT, &chat_request(json!({"max_tokens": 1}))).await;
        if response.status() != StatusCode::OK {
            break response;
        }
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        refused.json::<Value>().await.expect("JSON")["error"]["code"],
        "draining"
    );
    let events = events(running).await;
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(
        streamed_text(&events, 0),
        whole["choices"][0]["message"]["content"]
    );
    let url = server.url.clone();
    server.ended().await.expect("a clean end");
    assert!(reqwest::get(format!("{url}/health")).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_within_the_drain_timeout_ends_with_an_error() {
    let config = FrontendConfig {
        drain_timeout: Duration::from_millis(200),
        ..config()
    };
    let mut server = with_config(
        config,
        SimConfig {
            hang_after_tokens: Some(3),
            ..SimConfig::default()
        },
    )
    .await;
    let running = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    server.shut_down();
    let events = events(running).await;
    let error: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(error["error"]["code"], "draining");
    server.ended().await.expect("a clean end");
}

#[tokio::test]
async fn an_engine_that_fails_ends_streams_with_an_error_and_the_server_with_its_reason() {
    let server = chat(SimConfig {
        fail_after_tokens: Some(10),
        ..SimConfig::default()
    })
    .await;
    let events = events(server.post(CHAT, &chat_request(json!({"stream": true}))).await).await;
    let error: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(error["error"]["code"], "engine_failed");
    assert_eq!(error["error"]["type"], "server_error");
    let ended = server.ended().await;
    assert!(
        matches!(&ended, Err(FrontendError::Engine(reason)) if reason.contains("simulated")),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_failure_before_the_first_token_has_its_status() {
    let server = chat(SimConfig {
        ttft_ms: 60_000,
        ..SimConfig::default()
    })
    .await;
    let fail = async {
        server.load_becomes(|load| load.running_requests == 1).await;
        server.engine.fail("a step failed");
    };
    let request = chat_request(json!({"stream": true}));
    let (response, ()) = tokio::join!(server.post(CHAT, &request), fail);
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        response.json::<Value>().await.expect("JSON")["error"]["code"],
        "engine_failed"
    );
}

#[tokio::test]
async fn a_waiting_stream_is_kept_alive_with_comments() {
    let config = FrontendConfig {
        keep_alive_interval: Duration::from_millis(20),
        first_token_wait: Duration::from_millis(20),
        ..config()
    };
    let server = with_config(
        config,
        SimConfig {
            ttft_ms: 300,
            ..SimConfig::default()
        },
    )
    .await;
    let response = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    let text = tokio::time::timeout(LIMIT, response.text())
        .await
        .expect("in time")
        .expect("a body");
    assert!(text.starts_with(": keep-alive\n\n: keep-alive\n\n"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let launch = ferrum_engine::LaunchConfig {
        max_num_seqs: 1,
        max_waiting: 1,
        ..launch_config()
    };
    let server = loading(
        config(),
        launch,
        SimConfig {
            hang_after_tokens: Some(1),
            ..SimConfig::default()
        },
    )
    .await;
    server.install().await;
    let running = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    let request = chat_request(json!({"stream": true}));
    let waiting = server.post(CHAT, &request);
    let refused = async {
        server.load_becomes(|load| load.waiting_requests == 1).await;
        server.post(CHAT, &chat_request(json!({}))).await
    };
    tokio::select! {
        _ = waiting => panic!("nothing can answer it"),
        refused = refused => {
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(refused.headers()["retry-after"], "1");
            let body = refused.json::<Value>().await.expect("JSON");
            assert_eq!(body["error"]["type"], "rate_limit_error");
        }
    }
    drop(running);
}
