//! `ferrum serve` as a process: what it prints, how it ends.

mod support;

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{checkpoint::tiny_llama, ferrum, output, server::Server, stderr};

fn chat(url: &str, body: &Value) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    client.post(format!("{url}/v1/chat/completions")).json(body)
}

fn question(max_tokens: u32) -> Value {
    json!({
        "model": "any", "stream": true, "max_tokens": max_tokens, "messages": [{ "role": "user", "content": "Hi" }]
    })
}

#[test]
fn it_tells_its_address_and_how_to_ask() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("address");
    let server = Server::sim(
        home.path(),
        &[
            "--served-name",
            "x",
            "--address-file",
            file.to_str().expect("utf-8"),
        ],
    );
    assert_eq!(
        fs::read_to_string(file).expect("is written"),
        format!("{}\n", server.url)
    );
    assert!(
        server.announcement.starts_with("x is ready at "),
        "{}",
        server.announcement
    );
    assert!(
        server.announcement.contains("curl -N http://127.0.0.1:"),
        "{}",
        server.announcement
    );
}

#[tokio::test]
async fn a_signal_lets_the_running_answer_finish() {
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Server::sim(home.path(), &["--sim-tpot-ms", "20"]);
    let mut response = chat(&server.url, &question(25)).send().await.expect("an answer");
    let first = response.chunk().await.expect("no error").expect("a chunk");
    server.signal(Signal::TERM);
    let mut text = first.to_vec();
    while let Some(chunk) = response.chunk().await.expect("the stream ends well") {
        text.extend_from_slice(&chunk);
    }
    assert!(
        String::from_utf8_lossy(&text)
            .trim_end()
            .ends_with("data: [DONE]")
    );
    assert_eq!(server.exit_code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Server::sim(home.path(), &["--sim-tpot-ms", "1000"]);
    let mut response = chat(&server.url, &question(100)).send().await.expect("an answer");
    response.chunk().await.expect("no error").expect("a chunk");
    server.signal(Signal::INT);
    // The second is another one only once the first was taken: new requests are refused from then on.
    let refused = async {
        while chat(&server.url, &question(1))
            .send()
            .await
            .is_ok_and(|answer| answer.status() != 503)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .expect("it drains");
    server.signal(Signal::INT);
    assert_eq!(server.exit_code(), Some(130));
}

#[tokio::test]
async fn an_engine_that_fails_ends_the_process() {
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Server::sim(home.path(), &["--sim-fail-after-tokens", "3"]);
    let text = chat(&server.url, &question(50))
        .send()
        .await
        .expect("an answer")
        .text()
        .await;
    assert!(
        text.is_ok_and(|text| text.contains("error")),
        "the client hears why"
    );
    assert_eq!(server.exit_code(), Some(3));
}

#[test]
fn a_model_that_does_not_load_is_told_and_ends_it() {
    let home = tempfile::tempdir().expect("a folder");
    let sim = [
        "serve",
        "any",
        "--sim",
        "--port",
        "0",
        "--sim-fail-start",
        "the disk is on fire",
    ];
    let failed = output(ferrum(home.path()).args(sim));
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        stderr(&failed).contains("error: the disk is on fire"),
        "{}",
        stderr(&failed)
    );

    let empty = output(
        ferrum(home.path())
            .arg("serve")
            .arg(home.path())
            .args(["--port", "0"]),
    );
    assert_eq!(empty.status.code(), Some(1));
    assert!(stderr(&empty).contains("config.json"), "{}", stderr(&empty));
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    let home = tempfile::tempdir().expect("a folder");
    let result = output(ferrum(home.path()).args(["serve", "any", "--max-num-seqs", "0"]));
    assert_eq!(result.status.code(), Some(2));
    assert!(
        stderr(&result).contains("--max-num-seqs 0: expected 1 to 1024"),
        "{}",
        stderr(&result)
    );
    let unknown = output(ferrum(home.path()).args(["serve", "smolm2:135m", "--port", "0"]));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("did you mean smollm2:135m"),
        "{}",
        stderr(&unknown)
    );
}

#[test]
fn a_port_that_is_taken_is_told() {
    let home = tempfile::tempdir().expect("a folder");
    let server = Server::sim(home.path(), &[]);
    let port = server.url.rsplit(':').next().expect("a port");
    let second = output(ferrum(home.path()).args(["serve", "any", "--sim", "--port", port]));
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{}",
        stderr(&second)
    );
}

#[tokio::test]
async fn a_checkpoint_on_disk_answers_under_its_own_name_and_asks_for_the_key() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_llama(home.path());
    let args = [
        model.to_str().expect("utf-8"),
        "--api-key",
        "secret",
        "--threads",
        "1",
    ];
    let server = Server::start(home.path(), &args);
    let body = json!({
        "model": "tiny-llama", "max_tokens": 4, "temperature": 0, "messages": [{ "role": "user", "content": "Hi" }]
    });
    assert_eq!(
        chat(&server.url, &body).send().await.expect("an answer").status(),
        401
    );
    let answer = chat(&server.url, &body)
        .bearer_auth("secret")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("is JSON");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
}
