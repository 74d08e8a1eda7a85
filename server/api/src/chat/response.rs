//! The answers of `/v1/chat/completions`.

use serde::{Deserialize, Serialize};

use crate::{ChatLogprobs, Usage};

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Name of this answer.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's first name.
    pub model: String,
    /// `n` answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens read and made.
    pub usage: Usage,
}

/// One answer of a [`ChatCompletion`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Which of the `n`.
    pub index: u32,
    /// What the model said.
    pub message: ChatResponseMessage,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatResponseMessage {
    /// `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Always `null`; clients expect it.
    pub refusal: Option<String>,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletionChunk {
    /// Same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Seconds since 1970; same in every chunk.
    pub created: u64,
    /// The model's first name.
    pub model: String,
    /// What changed; empty in the chunk that carries the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// In the last chunk, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One answer's part of a [`ChatCompletionChunk`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    /// Which of the `n`.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length` in the answer's last chunk.
    pub finish_reason: Option<String>,
}

/// What is new in an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatDelta {
    /// `assistant`, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The next piece of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
