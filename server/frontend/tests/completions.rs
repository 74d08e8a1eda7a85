//! `/v1/completions` as a client sees it.

mod harness;

use ferrum_sim::SimConfig;
use harness::{chat, events, streamed_text};
use reqwest::StatusCode;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn a_prompt_has_four_shapes_that_mean_the_same() {
    let server = chat(SimConfig::default()).await;
    let mut texts = Vec::new();
    for prompt in [json!("hi"), json!(["hi"]), json!([104, 105]), json!([[104, 105]])] {
        let request = json!({"model": "sim", "prompt": prompt, "seed": 3});
        let answer = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
        assert_eq!(answer["object"], "text_completion");
        // OpenAI's default length.
        assert_eq!(answer["usage"]["completion_tokens"], 16);
        assert_eq!(answer["usage"]["prompt_tokens"], 2);
        texts.push(answer["choices"][0]["text"].clone());
    }
    assert!(texts.iter().all(|text| *text == texts[0] && text != ""));
}

#[tokio::test]
async fn several_prompts_have_their_choices_in_order() {
    let server = chat(SimConfig::default()).await;
    let request =
        |prompt: Value, n| json!({"model": "sim", "prompt": prompt, "seed": 3, "n": n, "max_tokens": 30});
    let both = server
        .post_json(COMPLETIONS, &request(json!(["a", "b"]), 2), StatusCode::OK)
        .await;
    for (prompt, first) in [("a", 0), ("b", 2)] {
        let alone = server
            .post_json(COMPLETIONS, &request(json!(prompt), 2), StatusCode::OK)
            .await;
        for index in 0..2 {
            assert_eq!(both["choices"][first + index]["index"], first + index);
            assert_eq!(
                both["choices"][first + index]["text"],
                alone["choices"][index]["text"]
            );
        }
    }
    assert_eq!(both["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn an_echo_is_the_prompt_as_it_was_given() {
    let server = chat(SimConfig::default()).await;
    let plain = json!({"model": "sim", "prompt": "hi", "seed": 3});
    let text = server.post_json(COMPLETIONS, &plain, StatusCode::OK).await["choices"][0]["text"].clone();
    for prompt in [json!("hi"), json!([104, 105])] {
        let mut request = json!({"model": "sim", "prompt": prompt, "seed": 3, "echo": true});
        let answer = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
        assert_eq!(
            answer["choices"][0]["text"],
            format!("hi{}", text.as_str().expect("text"))
        );
        request["stream"] = json!(true);
        let streamed = events(server.post(COMPLETIONS, &request).await).await;
        assert_eq!(streamed_text(&streamed, 0), answer["choices"][0]["text"]);
    }
}

#[tokio::test]
async fn log_probabilities_are_lists_of_one_length_with_offsets_into_the_text() {
    let server = chat(SimConfig::default()).await;
    let request = json!({"model": "sim", "prompt": "hi", "seed": 3, "logprobs": 2, "max_tokens": 30});
    let answer = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    let lengths: Vec<_> = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        .iter()
        .map(|list| logprobs[list].as_array().expect("a list").len())
        .collect();
    assert!(
        lengths.iter().all(|&length| length == lengths[0] && length > 0),
        "{lengths:?}"
    );
    assert_eq!(logprobs["text_offset"][0], 0);
}

#[tokio::test]
async fn stop_tokens_can_be_added_and_the_models_own_ignored() {
    let server = chat(SimConfig::default()).await;
    let mut request = json!({"model": "sim", "prompt": "hi", "seed": 3, "max_tokens": 300});
    let own = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
    assert_eq!(own["choices"][0]["finish_reason"], "stop");
    request["stop_token_ids"] = json!([32]);
    let space = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
    let text = own["choices"][0]["text"].as_str().expect("text");
    assert_eq!(
        space["choices"][0]["text"],
        text.split(' ').next().expect("a word")
    );
    request["stop_token_ids"] = json!([]);
    request["ignore_eos"] = json!(true);
    let long = server.post_json(COMPLETIONS, &request, StatusCode::OK).await;
    assert_eq!(long["usage"]["completion_tokens"], 300);
    assert_eq!(long["choices"][0]["finish_reason"], "length");
}
