//! The requests.

use serde_json::{Value, json};

use crate::harness::chat_request;

pub(crate) const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const JSON: &str = "application/json";

/// A request and the answer that it must get.
pub(crate) struct Bad {
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) param: Option<&'static str>,
    pub(crate) code: Option<&'static str>,
}

fn bad(
    path: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    error: (&'static str, &'static str),
) -> Bad {
    let given = |text: &'static str| (!text.is_empty()).then_some(text);
    Bad {
        path,
        content_type: JSON,
        body: body.into(),
        status,
        param: given(error.0),
        code: given(error.1),
    }
}

/// A chat request with one field changed.
fn field(value: Value, param: &'static str, code: &'static str) -> Bad {
    bad(CHAT, chat_request(value).to_string(), 400, (param, code))
}

fn message(value: Value, param: &'static str, code: &'static str) -> Bad {
    field(
        json!({"messages": [{"role": "user", "content": "a"}, value]}),
        param,
        code,
    )
}

fn completion(value: Value, param: &'static str, code: &'static str) -> Bad {
    let mut body = json!({"model": "sim", "prompt": "a"});
    for (key, value) in value.as_object().expect("an object") {
        body[key] = value.clone();
    }
    bad(COMPLETIONS, body.to_string(), 400, (param, code))
}

/// Bodies that are not what the route reads at all.
pub(crate) fn malformed() -> Vec<Bad> {
    let text = |body: &str| body.as_bytes().to_vec();
    let mut bad_utf8 = br#"{"model": "sim", "messages": [{"role": "user", "content": ""#.to_vec();
    bad_utf8.extend(b"\xff\xfe\"}]}");
    let deep = format!(
        r#"{{"model": "sim", "messages": [], "metadata": {}1{}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let invalid_json = [
        text(""),
        text("{"),
        text("not json"),
        text(r#"{"model": "sim",}"#),
        text(r#"{"model": "sim", "temperature": NaN}"#),
        text(r#"{"model": "sim", "temperature": Infinity}"#),
        text(r#"{"model": "sim", "temperature": 1e999}"#),
        text(r#"{"model": "\ud800"}"#),
        text("{\"model\": \"a\u{0}b\"}"),
        bad_utf8,
        deep.into_bytes(),
        [chat_request(json!({})).to_string(), "}".to_owned()]
            .concat()
            .into_bytes(),
    ];
    let mut all: Vec<Bad> = invalid_json
        .into_iter()
        .map(|body| bad(CHAT, body, 400, ("", "invalid_json")))
        .collect();
    all.extend(["[]", "null", "7", "\"text\""].map(|body| bad(CHAT, body, 400, ("", "invalid_type"))));
    let duplicate = r#"{"model": "sim", "model": "sim", "messages": []}"#;
    all.push(bad(CHAT, duplicate, 400, ("model", "duplicate_parameter")));
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
    ] {
        let body = chat_request(json!({})).to_string();
        all.push(Bad {
            content_type,
            ..bad(CHAT, body, 400, ("", "invalid_content_type"))
        });
    }
    all.push(bad(
        CHAT,
        format!("\"{}\"", "x".repeat(10 << 20)),
        413,
        ("", "request_too_large"),
    ));
    all.push(bad("/v1/chat/completion", "{}", 404, ("", "not_found")));
    all.push(bad("/v1/models", "{}", 405, ("", "method_not_allowed")));
    all.push(bad("/health", "{}", 405, ("", "method_not_allowed")));
    all
}

/// Fields of chat with a wrong name, type or value.
pub(crate) fn chat_fields() -> Vec<Bad> {
    let wrong = [
        (json!({"temperature": "hot"}), "temperature", "invalid_type"),
        (json!({"temperature": -0.1}), "temperature", ""),
        (json!({"temperature": 2.5}), "temperature", ""),
        (json!({"top_p": 1.5}), "top_p", ""),
        (json!({"top_p": -1}), "top_p", ""),
        (json!({"top_k": -2}), "top_k", ""),
        (json!({"min_p": 2}), "min_p", ""),
        (json!({"repetition_penalty": 0}), "repetition_penalty", ""),
        (json!({"presence_penalty": 3}), "presence_penalty", ""),
        (json!({"frequency_penalty": -3}), "frequency_penalty", ""),
        (json!({"n": -1}), "n", ""),
        (json!({"n": 0}), "n", ""),
        (json!({"n": 129}), "n", ""),
        (json!({"n": 1.5}), "n", "invalid_type"),
        (json!({"n": 18_446_744_073_709_551_615u64}), "n", "invalid_type"),
        (json!({"max_tokens": 0}), "max_tokens", ""),
        (json!({"max_tokens": -5}), "max_tokens", ""),
        (
            json!({"max_tokens": 100_000}),
            "max_tokens",
            "context_length_exceeded",
        ),
        (
            json!({"max_tokens": i64::MAX}),
            "max_tokens",
            "context_length_exceeded",
        ),
        (
            json!({"max_tokens": 3, "max_completion_tokens": 4}),
            "max_tokens",
            "",
        ),
        (json!({"seed": "lucky"}), "seed", "invalid_type"),
        (json!({"stop": [""]}), "stop[0]", ""),
        (json!({"stop": vec!["x"; 17]}), "stop", ""),
        (json!({"stop": [1]}), "stop[0]", "invalid_type"),
        (json!({"stop": {}}), "stop", "invalid_type"),
        (json!({"logit_bias": {"dog": 1}}), "logit_bias.dog", ""),
        (json!({"logit_bias": {"9999999": 1}}), "logit_bias.9999999", ""),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", ""),
        (json!({"logit_bias": [1]}), "logit_bias", "invalid_type"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", ""),
        (json!({"top_logprobs": 2}), "top_logprobs", ""),
        (json!({"stream": "yes"}), "stream", "invalid_type"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
            "",
        ),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "stream_options.x",
            "unknown_parameter",
        ),
        (json!({"temprature": 1}), "temprature", "unknown_parameter"),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools",
            "unsupported_parameter",
        ),
        (
            json!({"tool_choice": "required"}),
            "tool_choice",
            "unsupported_parameter",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
            "unsupported_parameter",
        ),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]", ""),
        (
            json!({"chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs.messages",
            "",
        ),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "",
        ),
        (json!({"messages": []}), "messages", ""),
        (json!({"messages": "hello"}), "messages", "invalid_type"),
        (json!({"messages": null}), "messages", "invalid_type"),
        (
            json!({"messages": [{"role": "user", "content": "x".repeat(9000)}]}),
            "messages",
            "context_length_exceeded",
        ),
    ];
    wrong
        .into_iter()
        .map(|(value, param, code)| field(value, param, code))
        .collect()
}

/// Messages, names, prompts and inputs.
pub(crate) fn others() -> Vec<Bad> {
    let long = "x".repeat(9000);
    let model = chat_request(json!({"model": "gpt-4"})).to_string();
    vec![
        bad(CHAT, model, 404, ("model", "model_not_found")),
        bad(
            CHAT,
            r#"{"messages": []}"#,
            400,
            ("model", "missing_required_parameter"),
        ),
        bad(
            CHAT,
            r#"{"model": "sim"}"#,
            400,
            ("messages", "missing_required_parameter"),
        ),
        bad(
            CHAT,
            r#"{"model": 5, "messages": []}"#,
            400,
            ("model", "invalid_type"),
        ),
        message(
            json!({"content": "x"}),
            "messages[1].role",
            "missing_required_parameter",
        ),
        message(json!({"role": "", "content": "x"}), "messages[1].role", ""),
        message(
            json!({"role": "user"}),
            "messages[1].content",
            "missing_required_parameter",
        ),
        message(
            json!({"role": "user", "content": null}),
            "messages[1].content",
            "missing_required_parameter",
        ),
        message(
            json!({"role": "user", "content": 5}),
            "messages[1].content",
            "invalid_type",
        ),
        message(
            json!({"role": 5, "content": "x"}),
            "messages[1].role",
            "invalid_type",
        ),
        message(
            json!({"role": "user", "contents": "x"}),
            "messages[1].contents",
            "unknown_parameter",
        ),
        message(json!("hello"), "messages[1]", "invalid_type"),
        message(
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "messages[1].content[0].type",
            "unsupported_content",
        ),
        message(
            json!({"role": "user", "content": [{"type": "text"}]}),
            "messages[1].content[0].text",
            "missing_required_parameter",
        ),
        message(
            json!({"role": "assistant", "content": "x", "tool_calls": [{}]}),
            "messages[1].tool_calls",
            "unsupported_parameter",
        ),
        completion(json!({"prompt": []}), "prompt", ""),
        completion(json!({"prompt": ""}), "prompt", ""),
        completion(json!({"prompt": [""]}), "prompt[0]", ""),
        completion(json!({"prompt": [[]]}), "prompt[0]", ""),
        completion(json!({"prompt": [1, "a"]}), "prompt", "invalid_type"),
        completion(json!({"prompt": [[1], [99_999]]}), "prompt[1][0]", ""),
        completion(json!({"prompt": [-1]}), "prompt[0]", "invalid_type"),
        completion(
            json!({"prompt": ["a", long]}),
            "prompt[1]",
            "context_length_exceeded",
        ),
        completion(json!({"prompt": vec!["a"; 300]}), "prompt", ""),
        completion(json!({"suffix": "x"}), "suffix", "unsupported_parameter"),
        completion(json!({"best_of": 3}), "best_of", "unsupported_parameter"),
        completion(json!({"logprobs": 21}), "logprobs", ""),
        completion(
            json!({"logprobs": 1, "echo": true}),
            "logprobs",
            "unsupported_parameter",
        ),
        bad(
            EMBEDDINGS,
            r#"{"model": "sim", "input": "a"}"#,
            400,
            ("model", "wrong_task"),
        ),
    ]
}

pub(crate) fn embeddings() -> Vec<Bad> {
    let input = |value: Value, param, code| {
        let mut body = json!({"model": "sim", "input": "a"});
        for (key, value) in value.as_object().expect("an object") {
            body[key] = value.clone();
        }
        bad(EMBEDDINGS, body.to_string(), 400, (param, code))
    };
    vec![
        input(json!({"input": ""}), "input", ""),
        input(json!({"input": []}), "input", ""),
        input(json!({"input": ["a", ""]}), "input[1]", ""),
        input(json!({"input": [300]}), "input[0]", ""),
        input(json!({"input": {}}), "input", "invalid_type"),
        input(json!({"input": vec!["a"; 2049]}), "input", ""),
        input(
            json!({"input": "x".repeat(9000)}),
            "input",
            "context_length_exceeded",
        ),
        input(json!({"dimensions": 0}), "dimensions", ""),
        input(json!({"dimensions": 65}), "dimensions", ""),
        input(json!({"encoding_format": "hex"}), "encoding_format", ""),
        input(json!({"truncate": true}), "truncate", "unknown_parameter"),
    ]
}
