//! `/v1/completions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ApiError, CompletionLogprobs, Input, SamplingFields, StopStrings, StreamOptions, Usage,
    support::{Unserved, refuse_unserved},
};

/// The request, as it came: types are right, values are not checked yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// A name from `/v1/models`.
    pub model: String,
    /// What to continue; each text of a list gets its own choices.
    pub prompt: Input,
    /// Begin the text with the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// -2 to 2: lowers tokens by how often they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Extension: do not stop at the model's own end tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Token id to -100 to 100, added to its logit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Report log probabilities, with so many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<i64>,
    /// Most tokens to generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
    /// Extension: 0 to 1: drops tokens below this share of the likeliest one's probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Answers to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// -2 to 2: lowers tokens that came already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Extension: above 0: divides the logits of tokens that came already; 1 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Same seed, same request: same tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Texts that end the answer and are not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopStrings>,
    /// Extension: more token ids that end the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_token_ids: Option<Vec<i64>>,
    /// Send the answer as it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Options of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// 0 to 2; 0 is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Extension: keep the k likeliest tokens; 0 or -1 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i64>,
    /// Above 0, at most 1: keep the likeliest tokens up to this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Hint: who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Not served: draw several answers and keep the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of: Option<Value>,
    /// Not served: extension: leave special tokens out of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<Value>,
    /// Not served: text after the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<Value>,
}

impl CompletionRequest {
    /// The fields that say how to draw.
    pub fn sampling(&self) -> SamplingFields {
        SamplingFields {
            frequency_penalty: self.frequency_penalty,
            ignore_eos: self.ignore_eos,
            logit_bias: self.logit_bias.clone(),
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop_token_ids: self.stop_token_ids.clone(),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        }
    }

    /// Refuses fields that are known but not served.
    ///
    /// # Errors
    /// 400 with the field's name.
    pub fn check_served(&self) -> Result<(), ApiError> {
        let fields = [
            Unserved::new("best_of", &self.best_of, &["1"]),
            Unserved::new("skip_special_tokens", &self.skip_special_tokens, &["true"]),
            Unserved::new("suffix", &self.suffix, &["\"\""]),
        ];
        refuse_unserved("", &fields)
    }
}

/// The answer, and, with a piece of text in each choice, a chunk of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Same in every chunk.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's first name.
    pub model: String,
    /// `n` of each prompt, prompt by prompt; a chunk has those that changed.
    pub choices: Vec<CompletionChoice>,
    /// Whole answers and the last chunk of a stream, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One answer, or a piece of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// Which one.
    pub index: u32,
    /// Text, or the next piece of it.
    pub text: String,
    /// Where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `None` while it goes on.
    pub finish_reason: Option<String>,
}
