//! Requests that have passed validation, and the events they bring.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Work for an engine. Built only by a server that has checked it against the
/// [`ModelCard`](crate::ModelCard): ids below the vocabulary, lengths within `max_model_len`, parameters in
/// range. An engine does not check again; it may still refuse for want of room.
#[derive(Clone, Debug)]
pub enum ValidRequest {
    /// One vector from one text.
    Embed(EmbedRequest),
    /// Tokens after a prompt.
    Generate(GenerateRequest),
}

/// Tokens after a prompt: one sequence (`n` of a client becomes n requests).
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// For logs.
    pub id: String,
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; at least 1, and `prompt.len() + max_tokens <= max_model_len`.
    pub max_tokens: usize,
    /// How to draw.
    pub sampling: SamplingParams,
    /// Ids that end the generation; the id itself is reported.
    pub stop_token_ids: Vec<u32>,
}

/// One vector from one text.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    /// For logs.
    pub id: String,
    /// Token ids, special tokens included; at least one.
    pub ids: Vec<u32>,
    /// Keep the first so many elements and normalise again (Matryoshka); `None` keeps all.
    pub dimensions: Option<usize>,
}

/// How to draw a token. The meaning and order are those of `ferrum_kernels::ops::SampleRow`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub min_p: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// Same seed, same prompt, same parameters: same tokens, whatever else runs.
    pub seed: u64,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report log probabilities, with so many of the likeliest alternatives.
    pub logprobs: Option<u8>,
}

impl Default for SamplingParams {
    /// Greedy, nothing altered.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// What comes back on an [`EventStream`](crate::EventStream). `Finished`, `Embedding` and `Failed` are last.
#[derive(Clone, Debug)]
pub enum Event {
    /// The vector of an [`EmbedRequest`].
    Embedding {
        /// Pooled and normalised as the model's own configuration says.
        vector: Vec<f32>,
        /// Tokens read.
        usage: Usage,
    },
    /// The request ended without a result.
    Failed(EngineError),
    /// Generation ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens read and made.
        usage: Usage,
    },
    /// The request left the queue and its prompt is being read. Sent once, before anything else, so that a server
    /// can tell the time in the queue, and the cached tokens also of an answer that it ends early.
    Started {
        /// Prompt tokens found in the prefix cache so far; the final usage also counts those that another request
        /// computed while this one was being read.
        cached_tokens: usize,
    },
    /// One more token.
    Token {
        /// Its id.
        id: u32,
        /// Its probabilities, where asked for.
        logprob: Option<TokenLogprob>,
    },
}

/// Log probabilities of one generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Of the token drawn.
    pub logprob: f32,
    /// The likeliest tokens, most likely first.
    pub top: Vec<(u32, f32)>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// `max_tokens` were made.
    Length,
    /// A stop token came.
    Stop,
}

/// Tokens read and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt or text.
    pub prompt_tokens: usize,
    /// Of these, tokens whose keys and values were found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, a stop token included.
    pub completion_tokens: usize,
}

/// Why an accepted request ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A step failed; the engine cannot go on and its process will end.
    #[error("the engine failed: {0}")]
    Fatal(String),
    /// The engine stopped before the request could finish.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "length",
            Self::Stop => "stop",
        })
    }
}
