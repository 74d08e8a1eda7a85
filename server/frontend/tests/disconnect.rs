//! A client that leaves ends the engine's work, streaming or not.

mod harness;

use std::time::{Duration, Instant};

use ferrum_sim::SimConfig;
use harness::{LIMIT, chat, chat_request};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Within so long the sequence must be free.
const FREED: Duration = Duration::from_secs(1);

/// Sends a request over a socket of its own.
async fn send(url: &str, body: &serde_json::Value) -> TcpStream {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("writes");
    socket.write_all(body.as_bytes()).await.expect("writes");
    socket
}

async fn read_until(socket: &mut TcpStream, text: &str) {
    let mut read = Vec::new();
    let wait = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_ne!(
                socket.read_buf(&mut read).await.expect("reads"),
                0,
                "ended before {text}"
            );
        }
    };
    timeout(LIMIT, wait).await.expect("in time");
}

#[tokio::test]
async fn a_stream_whose_client_leaves_is_freed_within_a_second() {
    let server = chat(SimConfig {
        tpot_ms: 20,
        answer_tokens: 5000,
        ..SimConfig::default()
    })
    .await;
    let mut socket = send(&server.url, &chat_request(json!({"stream": true, "n": 2}))).await;
    read_until(&mut socket, "\"content\":\"").await;
    let left = Instant::now();
    drop(socket);
    server
        .load_becomes(|load| load.running_requests == 0 && load.free_blocks == load.total_blocks)
        .await;
    assert!(left.elapsed() < FREED, "{:?}", left.elapsed());
    assert_eq!(server.engine.counters().cancelled, 2);
}

#[tokio::test]
async fn a_whole_answer_whose_client_leaves_is_freed_within_a_second() {
    let server = chat(SimConfig {
        tpot_ms: 20,
        answer_tokens: 5000,
        ..SimConfig::default()
    })
    .await;
    let socket = send(&server.url, &chat_request(json!({}))).await;
    server.load_becomes(|load| load.running_requests == 1).await;
    let left = Instant::now();
    drop(socket);
    server.load_becomes(|load| load.running_requests == 0).await;
    assert!(left.elapsed() < FREED, "{:?}", left.elapsed());
    assert_eq!(server.engine.counters().cancelled, 1);
}

#[tokio::test]
async fn a_request_that_never_gets_a_token_is_freed_too() {
    for stream in [false, true] {
        let server = chat(SimConfig {
            hang_after_tokens: Some(0),
            ..SimConfig::default()
        })
        .await;
        let socket = send(&server.url, &chat_request(json!({"stream": stream}))).await;
        server.load_becomes(|load| load.running_requests == 1).await;
        let left = Instant::now();
        drop(socket);
        server.load_becomes(|load| load.running_requests == 0).await;
        assert!(left.elapsed() < FREED, "{:?}", left.elapsed());
    }
}

#[tokio::test]
async fn a_reset_http_2_stream_is_freed_too() {
    let server = chat(SimConfig {
        tpot_ms: 20,
        answer_tokens: 5000,
        ..SimConfig::default()
    })
    .await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("builds");
    let request = client.post(format!("{}/v1/chat/completions", server.url));
    let mut response = request
        .json(&chat_request(json!({"stream": true})))
        .send()
        .await
        .expect("an answer");
    response.chunk().await.expect("reads").expect("a chunk");
    let left = Instant::now();
    // The connection stays open.
    drop(response);
    server.load_becomes(|load| load.running_requests == 0).await;
    assert!(left.elapsed() < FREED, "{:?}", left.elapsed());
}
