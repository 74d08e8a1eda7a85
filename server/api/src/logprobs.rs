//! Log probabilities in the two shapes of OpenAI.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Of a chat choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<TokenLogprob>,
}

/// One token and its alternatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Text of the token.
    pub token: String,
    /// Its log probability.
    pub logprob: f32,
    /// Bytes of the token, which need not be UTF-8 by themselves.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens, most likely first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One alternative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Text of the token.
    pub token: String,
    /// Its log probability.
    pub logprob: f32,
    /// Bytes of the token.
    pub bytes: Option<Vec<u8>>,
}

/// Of a completion choice: four lists of the same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// Text of each token.
    pub tokens: Vec<String>,
    /// Log probability of each token.
    pub token_logprobs: Vec<f32>,
    /// The likeliest tokens at each place, text to log probability.
    pub top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
