//! The request of `/v1/chat/completions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ApiError, SamplingFields, StopStrings, StreamOptions,
    chat::ChatMessage,
    support::{Unserved, refuse_unserved},
};

/// The request, as it came: types are right, values are not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatCompletionRequest {
    /// A name from `/v1/models`.
    pub model: String,
    /// The conversation, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Extension: begin the assistant's turn at the end of the prompt (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool>,
    /// Extension: more variables for the chat template, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Extension: continue the last message instead of answering it (default false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_final_message: Option<bool>,
    /// -2 to 2: lowers tokens by how often they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Extension: do not stop at the model's own end tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Token id to -100 to 100, added to its logit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Report log probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Most tokens to generate; the newer name of `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<i64>,
    /// Most tokens to generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
    /// Hint: tags of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Extension: 0 to 1: drops tokens below this share of the likeliest one's probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Answers to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// Hint: says nothing without tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// -2 to 2: lowers tokens that came already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Hint: requests with the same prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<String>,
    /// Hint: how long a prefix is worth keeping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_cache_retention: Option<String>,
    /// Extension: above 0: divides the logits of tokens that came already; 1 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Hint: who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<String>,
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
    /// 0 to 20: the likeliest tokens to report at each place; needs `logprobs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<i64>,
    /// Above 0, at most 1: keep the likeliest tokens up to this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Hint: who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Not served: spoken answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<Value>,
    /// Not served: which function to call, in the first shape of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Value>,
    /// Not served: functions, in the first shape of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub functions: Option<Value>,
    /// Not served: kinds of answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modalities: Option<Value>,
    /// Not served: text that the answer may repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Value>,
    /// Not served: how long to think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<Value>,
    /// Not served: shape of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// Not served: class of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Value>,
    /// Not served: extension: leave special tokens out of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<Value>,
    /// Not served: keep the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Value>,
    /// Not served: which tool to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// Not served: tools that the model may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Not served: how long an answer to give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<Value>,
    /// Not served: search of the web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_search_options: Option<Value>,
}

impl ChatCompletionRequest {
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
            Unserved::new("audio", &self.audio, &[]),
            Unserved::new("function_call", &self.function_call, &["\"none\"", "\"auto\""]),
            Unserved::new("functions", &self.functions, &["[]"]),
            Unserved::new("modalities", &self.modalities, &["[\"text\"]"]),
            Unserved::new("prediction", &self.prediction, &[]),
            Unserved::new("reasoning_effort", &self.reasoning_effort, &["\"none\""]),
            Unserved::new("response_format", &self.response_format, &["{\"type\":\"text\"}"]),
            Unserved::new("service_tier", &self.service_tier, &["\"auto\"", "\"default\""]),
            Unserved::new("skip_special_tokens", &self.skip_special_tokens, &["true"]),
            Unserved::new("store", &self.store, &["false"]),
            Unserved::new("tool_choice", &self.tool_choice, &["\"none\"", "\"auto\""]),
            Unserved::new("tools", &self.tools, &["[]"]),
            Unserved::new("verbosity", &self.verbosity, &["\"medium\""]),
            Unserved::new("web_search_options", &self.web_search_options, &[]),
        ];
        refuse_unserved("", &fields)
    }
}
