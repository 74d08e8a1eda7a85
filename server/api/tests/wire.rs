//! Requests as clients write them, read and refused.

use ferrum_api::{
    Input, StopStrings, chat::ChatCompletionRequest, chat::Content, completions::CompletionRequest,
    embeddings::EmbeddingRequest,
};
use serde_json::json;

fn chat(extra: serde_json::Value) -> Result<ChatCompletionRequest, serde_json::Error> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().expect("an object") {
        body[key] = value.clone();
    }
    serde_json::from_str(&body.to_string())
}

#[test]
fn null_means_not_given() {
    let request =
        chat(json!({"temperature": null, "stop": null, "tools": null, "seed": null})).expect("reads");
    assert_eq!(request, chat(json!({})).expect("reads"));
    request.check_served().expect("served");
}

#[test]
fn an_answer_of_the_official_client_can_be_sent_back() {
    let message = json!({"role": "assistant", "content": "hello", "refusal": null, "annotations": [],
        "audio": null, "function_call": null, "tool_calls": null});
    let request = chat(json!({"messages": [message]})).expect("reads");
    request.messages[0].check_served("messages[0]").expect("served");
}

#[test]
fn content_is_a_string_or_parts() {
    let parts =
        json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    let request = chat(json!({"messages": parts})).expect("reads");
    let Some(Content::Parts(parts)) = &request.messages[0].content else {
        panic!("{request:?}")
    };
    assert_eq!((parts.len(), parts[1].text.as_deref()), (2, Some("b")));
}

#[test]
fn stop_is_a_string_or_a_list() {
    let stop = |value| chat(json!({"stop": value})).expect("reads").stop.expect("given");
    assert_eq!(stop(json!("a")), StopStrings(vec!["a".to_owned()]));
    assert_eq!(
        stop(json!(["a", "b"])),
        StopStrings(vec!["a".to_owned(), "b".to_owned()])
    );
    assert!(chat(json!({"stop": [1]})).is_err());
}

#[test]
fn unknown_fields_are_refused_by_name() {
    let error = chat(json!({"temprature": 1})).expect_err("unknown").to_string();
    assert!(
        error.starts_with("unknown field `temprature`, expected one of `model`"),
        "{error}"
    );
    assert!(chat(json!({"messages": [{"role": "user", "content": "", "contents": ""}]})).is_err());
}

#[test]
fn known_fields_that_are_not_served_pass_only_when_they_change_nothing() {
    let no_ops = json!({"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": false,
        "modalities": ["text"], "service_tier": "auto"});
    chat(no_ops)
        .expect("reads")
        .check_served()
        .expect("changes nothing");
    for (field, value) in [
        ("tools", json!([{"type": "function"}])),
        ("tool_choice", json!("required")),
        ("response_format", json!({"type": "json_object"})),
        ("audio", json!({})),
    ] {
        let error = chat(json!({field: value}))
            .expect("reads")
            .check_served()
            .expect_err(field);
        assert_eq!(error.param.as_deref(), Some(field));
        assert_eq!(error.code.as_deref(), Some("unsupported_parameter"));
        assert!(error.message.contains("not supported yet"), "{}", error.message);
    }
}

#[test]
fn an_input_has_four_shapes() {
    let input = |value| {
        serde_json::from_value::<EmbeddingRequest>(json!({"model": "m", "input": value}))
            .map(|request| request.input)
    };
    assert_eq!(input(json!("a")).expect("reads"), Input::Text("a".to_owned()));
    assert_eq!(
        input(json!(["a", "b"])).expect("reads"),
        Input::Texts(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(input(json!([1, 2])).expect("reads"), Input::Ids(vec![1, 2]));
    assert_eq!(
        input(json!([[1], [2, 3]])).expect("reads"),
        Input::IdLists(vec![vec![1], vec![2, 3]])
    );
    assert_eq!(input(json!([])).expect("reads"), Input::Texts(Vec::new()));
    for wrong in [
        json!(["a", 1]),
        json!([1, [2]]),
        json!([-1]),
        json!([1.5]),
        json!([5_000_000_000u64]),
        json!(7),
    ] {
        assert!(input(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn the_sampling_fields_are_the_same_in_both_requests() {
    let fields = json!({"temperature": 0.5, "top_k": 3, "min_p": 0.1, "seed": -1, "logit_bias": {"5": -100},
        "ignore_eos": true, "stop_token_ids": [1], "repetition_penalty": 1.1});
    let mut body = json!({"model": "m", "prompt": "a"});
    for (key, value) in fields.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let completion: CompletionRequest = serde_json::from_value(body).expect("reads");
    assert_eq!(completion.sampling(), chat(fields).expect("reads").sampling());
    assert_eq!(completion.sampling().seed, Some(-1));
}
