//! Requests that are wrong: each has its status and an error that names the field, and none disturbs its neighbour.

#[path = "../harness/mod.rs"]
mod harness;
mod table;

use ferrum_engine::LaunchConfig;
use ferrum_sim::SimConfig;
use harness::{Server, chat_request, embedding, events, launch_config, streamed_text, with_launch};
use reqwest::StatusCode;
use serde_json::{Value, json};
use table::{Bad, CHAT, chat_fields, embeddings, malformed, others};

/// What is wrong with the answer to `bad`.
async fn complaint(server: &Server, bad: &Bad) -> Option<String> {
    let mut request = server
        .client
        .post(format!("{}{}", server.url, bad.path))
        .body(bad.body.clone());
    if !bad.content_type.is_empty() {
        request = request.header("content-type", bad.content_type);
    }
    let shown: String = String::from_utf8_lossy(&bad.body).chars().take(200).collect();
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap_or_default();
    let error = &answer["error"];
    let found = (status, error["param"].as_str(), error["code"].as_str());
    let message = error["message"].as_str().unwrap_or_default();
    // `messages[1].content` is named by its text or its place.
    let named = bad
        .param
        .is_none_or(|param| message.contains(param.split(['[', '.']).next().unwrap_or(param)));
    let right = found == (bad.status, bad.param, bad.code)
        && error["type"] == "invalid_request_error"
        && (10..3000).contains(&message.len())
        && named;
    (!right).then(|| {
        format!(
            "{shown}: expected {:?}, {:?}, {:?}: {answer}",
            bad.status, bad.param, bad.code
        )
    })
}

async fn check_all(server: &Server, all: &[Bad]) {
    let mut complaints = Vec::new();
    for bad in all {
        complaints.extend(complaint(server, bad).await);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn each_bad_request_names_what_is_wrong_and_a_stream_beside_them_goes_on() {
    let sim = SimConfig {
        tpot_ms: 20,
        answer_tokens: 200,
        ..SimConfig::default()
    };
    let launch = LaunchConfig {
        max_model_len: Some(8192),
        ..launch_config()
    };
    let server = with_launch(launch, sim).await;
    let undisturbed = events(server.post(CHAT, &chat_request(json!({"stream": true}))).await).await;
    let stream = server.post(CHAT, &chat_request(json!({"stream": true}))).await;
    let beside = tokio::spawn(events(stream));
    let all: Vec<Bad> = malformed()
        .into_iter()
        .chain(chat_fields())
        .chain(others())
        .collect();
    assert!(all.len() >= 90, "{}", all.len());
    check_all(&server, &all).await;
    let disturbed = beside.await.expect("no panic");
    assert_eq!(streamed_text(&disturbed, 0), streamed_text(&undisturbed, 0));
    assert_eq!(disturbed.len(), undisturbed.len());
    assert_eq!(server.engine.counters().submitted, 2);
}

#[tokio::test]
async fn each_bad_embedding_names_what_is_wrong() {
    let server = embedding(SimConfig::default()).await;
    check_all(&server, &embeddings()).await;
    assert_eq!(server.engine.counters().submitted, 0);
}

#[tokio::test]
async fn the_numbers_of_a_prompt_that_is_too_long_are_told() {
    let server = with_launch(
        LaunchConfig {
            max_model_len: Some(64),
            ..launch_config()
        },
        SimConfig::default(),
    )
    .await;
    let content = "x".repeat(100);
    let request = chat_request(json!({"messages": [{"role": "user", "content": content}]}));
    let error = server.post_json(CHAT, &request, StatusCode::BAD_REQUEST).await;
    let message = error["error"]["message"].as_str().expect("text");
    assert!(
        message.contains("119 tokens") && message.contains("64 tokens") && message.contains("at least 56"),
        "{message}"
    );
    let error = server
        .post_json(
            CHAT,
            &chat_request(json!({"max_tokens": 50})),
            StatusCode::BAD_REQUEST,
        )
        .await;
    let message = error["error"]["message"].as_str().expect("text");
    assert!(
        message.contains("asks for 50 more, together 74") && message.contains("at most 40"),
        "{message}"
    );
    // Just what remains.
    server
        .post_json(CHAT, &chat_request(json!({"max_tokens": 40})), StatusCode::OK)
        .await;
}

#[tokio::test]
async fn what_a_client_sent_is_not_repeated_at_full_length() {
    let server = with_launch(launch_config(), SimConfig::default()).await;
    let long = "é".repeat(100_000);
    for (extra, status) in [
        (json!({"model": long}), StatusCode::NOT_FOUND),
        (json!({&*long: 1}), StatusCode::BAD_REQUEST),
        (json!({"temperature": long}), StatusCode::BAD_REQUEST),
    ] {
        let error = server.post_json(CHAT, &chat_request(extra), status).await;
        assert!(error.to_string().len() < 3000);
    }
}

#[tokio::test]
async fn a_misspelt_field_is_met_with_the_right_one() {
    let server = with_launch(launch_config(), SimConfig::default()).await;
    let error = server
        .post_json(
            CHAT,
            &chat_request(json!({"temprature": 1})),
            StatusCode::BAD_REQUEST,
        )
        .await;
    let message = error["error"]["message"].as_str().expect("text");
    assert_eq!(
        message,
        "`temprature` is not a field of this request; did you mean `temperature`?"
    );
    let unlike = server
        .post_json(CHAT, &chat_request(json!({"zzz": 1})), StatusCode::BAD_REQUEST)
        .await;
    assert_eq!(unlike["error"]["message"], "`zzz` is not a field of this request");
    let unknown = server
        .post_json(
            CHAT,
            &chat_request(json!({"model": "gpt-4"})),
            StatusCode::NOT_FOUND,
        )
        .await;
    assert_eq!(
        unknown["error"]["message"],
        "no model `gpt-4`; served here: `sim`, `org/other`"
    );
}
