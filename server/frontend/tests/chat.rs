//! `/v1/chat/completions` as a client sees it.

mod harness;

use ferrum_sim::SimConfig;
use harness::{chat, chat_request, events, streamed_text};
use reqwest::StatusCode;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_stream_has_role_text_finish_usage_and_done_and_is_the_whole_answer() {
    let server = chat(SimConfig::default()).await;
    let whole = server
        .post_json(CHAT, &chat_request(json!({})), StatusCode::OK)
        .await;
    let request = chat_request(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = server.post(CHAT, &request).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let events = events(response).await;
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).expect("JSON"))
        .collect();
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let [.., last, usage] = chunks.as_slice() else {
        panic!("{chunks:?}")
    };
    assert_eq!(
        last["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
    );
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    assert_eq!(
        streamed_text(&events, 0),
        whole["choices"][0]["message"]["content"]
    );
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["model"] == "sim")
    );
}

#[tokio::test]
async fn a_whole_answer_has_the_shape_of_openai() {
    let server = chat(SimConfig::default()).await;
    let request = chat_request(json!({"max_completion_tokens": 4}));
    let mut answer = server.post_json(CHAT, &request, StatusCode::OK).await;
    let message = &answer["choices"][0]["message"];
    assert!(message["content"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(
        answer["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-"))
    );
    for changing in ["id", "created"] {
        answer[changing] = Value::Null;
    }
    answer["choices"][0]["message"]["content"] = Value::Null;
    // <|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n: 3 special tokens and 21 bytes.
    let usage = json!({"prompt_tokens": 24, "completion_tokens": 4, "total_tokens": 28,
        "prompt_tokens_details": {"cached_tokens": 0}});
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": null, "refusal": null},
        "logprobs": null, "finish_reason": "length"});
    assert_eq!(
        answer,
        json!({"id": null, "object": "chat.completion", "created": null, "model": "sim",
        "choices": [choice], "usage": usage})
    );
}

#[tokio::test]
async fn cached_tokens_are_told_also_when_a_stop_string_ends_the_answer() {
    let server = chat(SimConfig::default()).await;
    let whole = server
        .post_json(CHAT, &chat_request(json!({})), StatusCode::OK)
        .await;
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
    let stop = text.split(' ').nth(2).expect("words");
    let answer = server
        .post_json(CHAT, &chat_request(json!({"stop": stop})), StatusCode::OK)
        .await;
    let found = answer["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(found, &text[..text.find(stop).expect("is there")]);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
    server.load_becomes(|load| load.running_requests == 0).await;
    assert_eq!(server.engine.counters().cancelled, 1);
}

#[tokio::test]
async fn n_answers_come_with_their_indexes_and_differ() {
    let server = chat(SimConfig {
        tpot_ms: 1,
        ..SimConfig::default()
    })
    .await;
    let whole = server
        .post_json(CHAT, &chat_request(json!({"n": 3})), StatusCode::OK)
        .await;
    let events = events(
        server
            .post(CHAT, &chat_request(json!({"n": 3, "stream": true})))
            .await,
    )
    .await;
    let texts: Vec<_> = (0..3).map(|index| streamed_text(&events, index)).collect();
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(whole["choices"][index]["index"], index);
        assert_eq!(whole["choices"][index]["message"]["content"], *text);
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    assert_eq!(whole["usage"]["prompt_tokens"], 24);
}

#[tokio::test]
async fn log_probabilities_cover_the_text_and_no_more() {
    let server = chat(SimConfig::default()).await;
    let request = chat_request(json!({"logprobs": true, "top_logprobs": 2}));
    let answer = server.post_json(CHAT, &request, StatusCode::OK).await;
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .expect("entries");
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| token["bytes"].as_array().expect("bytes").clone())
        .map(|byte| byte.as_u64().expect("a byte") as u8)
        .collect();
    assert_eq!(
        String::from_utf8(bytes).expect("UTF-8"),
        answer["choices"][0]["message"]["content"]
    );
    assert!(
        content
            .iter()
            .all(|token| token["top_logprobs"].as_array().expect("entries").len() == 2)
    );
    let mut streaming = request.clone();
    streaming["stream"] = json!(true);
    let streamed: Vec<Value> = events(server.post(CHAT, &streaming).await)
        .await
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .flat_map(|chunk| {
            chunk["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .collect();
    assert_eq!(&streamed, content);
}

#[tokio::test]
async fn a_final_message_can_be_continued() {
    let server = chat(SimConfig::default()).await;
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]);
    let request =
        chat_request(json!({"messages": messages, "continue_final_message": true, "max_tokens": 1}));
    let answer = server.post_json(CHAT, &request, StatusCode::OK).await;
    // <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell,: 3 special tokens, 5 + 2 + 1 + 10 + 5 bytes.
    assert_eq!(answer["usage"]["prompt_tokens"], 26);
}

#[tokio::test]
async fn http_2_without_tls_works_on_the_same_port() {
    let server = chat(SimConfig::default()).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("builds");
    let request = client
        .post(format!("{}{CHAT}", server.url))
        .json(&chat_request(json!({"stream": true})));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(events(response).await.last().map(String::as_str), Some("[DONE]"));
}
