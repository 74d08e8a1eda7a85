//! `/v1/embeddings` as a client sees it.

mod harness;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ferrum_sim::SimConfig;
use harness::{chat, embedding};
use reqwest::StatusCode;
use serde_json::{Value, json};

const EMBEDDINGS: &str = "/v1/embeddings";

fn floats(vector: &Value) -> Vec<f32> {
    vector
        .as_array()
        .expect("numbers")
        .iter()
        .map(|x| x.as_f64().expect("a number") as f32)
        .collect()
}

#[tokio::test]
async fn an_input_has_four_shapes_and_two_encodings_that_mean_the_same() {
    let server = embedding(SimConfig::default()).await;
    let mut vectors = Vec::new();
    for input in [json!("hi"), json!(["hi"]), json!([104, 105]), json!([[104, 105]])] {
        let request = json!({"model": "sim", "input": input});
        let answer = server.post_json(EMBEDDINGS, &request, StatusCode::OK).await;
        assert_eq!(answer["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
        assert_eq!(answer["data"][0]["object"], "embedding");
        vectors.push(floats(&answer["data"][0]["embedding"]));
    }
    let request = json!({"model": "sim", "input": "hi", "encoding_format": "base64"});
    let answer = server.post_json(EMBEDDINGS, &request, StatusCode::OK).await;
    let bytes = BASE64_STANDARD
        .decode(answer["data"][0]["embedding"].as_str().expect("text"))
        .expect("base64");
    vectors.push(
        bytes
            .chunks(4)
            .map(|x| f32::from_le_bytes(x.try_into().expect("four")))
            .collect(),
    );
    assert_eq!(vectors[0].len(), 64);
    assert!(vectors.iter().all(|vector| *vector == vectors[0]));
}

#[tokio::test]
async fn many_texts_come_back_in_their_order() {
    let server = embedding(SimConfig::default()).await;
    let texts: Vec<String> = (0..100).map(|index| format!("text {index}")).collect();
    let request = json!({"model": "sim", "input": texts});
    let answer = server.post_json(EMBEDDINGS, &request, StatusCode::OK).await;
    assert_eq!(answer["data"].as_array().expect("data").len(), 100);
    assert_eq!(answer["data"][42]["index"], 42);
    let alone = json!({"model": "sim", "input": "text 42"});
    let alone = server.post_json(EMBEDDINGS, &alone, StatusCode::OK).await;
    assert_eq!(answer["data"][42]["embedding"], alone["data"][0]["embedding"]);
}

#[tokio::test]
async fn dimensions_shorten_the_vector_and_keep_its_norm() {
    let server = embedding(SimConfig::default()).await;
    let request = json!({"model": "sim", "input": "hi", "dimensions": 8});
    let answer = server.post_json(EMBEDDINGS, &request, StatusCode::OK).await;
    let vector = floats(&answer["data"][0]["embedding"]);
    assert_eq!(vector.len(), 8);
    // Eight squares, each rounded to f32.
    assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 8.0 * f32::EPSILON);
}

#[tokio::test]
async fn a_model_of_another_task_names_the_right_route() {
    let embedding = embedding(SimConfig::default()).await;
    let request = json!({"model": "sim", "messages": [{"role": "user", "content": "hi"}]});
    let error = embedding
        .post_json("/v1/chat/completions", &request, StatusCode::BAD_REQUEST)
        .await;
    assert_eq!(error["error"]["code"], "wrong_task");
    assert!(
        error["error"]["message"]
            .as_str()
            .expect("text")
            .contains("/v1/embeddings")
    );
    let chat = chat(SimConfig::default()).await;
    let request = json!({"model": "sim", "input": "hi"});
    let error = chat
        .post_json(EMBEDDINGS, &request, StatusCode::BAD_REQUEST)
        .await;
    assert!(
        error["error"]["message"]
            .as_str()
            .expect("text")
            .contains("/v1/chat/completions")
    );
}
