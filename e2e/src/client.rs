//! A small OpenAI client that tells how a request ended, which the official ones hide.

use futures_util::StreamExt;
use serde_json::{Value, json};

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stream had begun and ended with an error event in OpenAI's shape.
    BrokenWithError(String),
    /// The stream had begun and ended without `[DONE]` and without an error event.
    BrokenSilently,
    /// Everything came.
    Complete {
        /// The text.
        text: String,
    },
    /// It was refused before its first byte.
    Refused {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
    },
    /// No answer at all.
    Unreachable(String),
}

/// Asks for a chat answer and says how it ended.
pub async fn chat(http: &reqwest::Client, url: &str, request: &ChatRequest<'_>) -> Outcome {
    let body = json!({
        "model": request.model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": request.stream,
    });
    let sent = http
        .post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(body.to_string())
        .send();
    let response = match sent.await {
        Ok(response) => response,
        Err(error) => return Outcome::Unreachable(format!("{error:?}")),
    };
    let status = response.status().as_u16();
    if status != 200 {
        return Outcome::Refused {
            status,
            body: response.text().await.unwrap_or_default(),
        };
    }
    if request.stream {
        read_stream(response).await
    } else {
        read_whole(response).await
    }
}

/// A chat request.
#[derive(Clone, Copy, Debug)]
pub struct ChatRequest<'a> {
    /// OpenAI `model`.
    pub model: &'a str,
    /// The user's message.
    pub prompt: &'a str,
    /// Most tokens.
    pub max_tokens: usize,
    /// Server-sent events or one body.
    pub stream: bool,
}

async fn read_whole(response: reqwest::Response) -> Outcome {
    match response.json::<Value>().await {
        Ok(answer) => {
            let text = answer["choices"][0]["message"]["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            Outcome::Complete { text }
        }
        Err(error) => Outcome::Unreachable(format!("body: {error:?}")),
    }
}

async fn read_stream(response: reqwest::Response) -> Outcome {
    let mut text = String::new();
    let mut buffer = Vec::new();
    let mut bytes = response.bytes_stream();
    while let Some(Ok(chunk)) = bytes.next().await {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let Some(data) = event.trim_end().strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Outcome::Complete { text };
            }
            let Ok(value) = serde_json::from_str::<Value>(data) else {
                continue;
            };
            if let Some(message) = value["error"]["message"].as_str() {
                return Outcome::BrokenWithError(message.to_owned());
            }
            text.push_str(
                value["choices"][0]["delta"]["content"]
                    .as_str()
                    .unwrap_or_default(),
            );
        }
    }
    Outcome::BrokenSilently
}
