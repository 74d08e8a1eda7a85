//! What an engine says of its model, once, when it is loaded.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Text from messages or a prompt.
    Chat,
    /// A vector from text.
    Embedding,
}

impl Task {
    /// Every task, in the order of documentation.
    pub const ALL: [Self; 2] = [Self::Chat, Self::Embedding];

    /// The name used in manifests and flags.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embedding => "embedding",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|task| task.as_str() == text)
            .ok_or_else(|| format!("unknown task `{text}`: expected chat or embedding"))
    }
}

/// The model as loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Where the weights came from (`hf://…`, `file://…`).
    pub source: String,
    /// The OpenAI `model` values it answers to; the first is its name.
    pub served_names: Vec<String>,
    /// What it is for.
    pub task: Task,
    /// Family as the registry names it: `llama`, `qwen2`, `bert`, ….
    pub architecture: String,
    /// Storage of most weights: `f32`, `f16`, `bf16`, `gguf Q4_1`, `gptq int4 g128`, ….
    pub weights: String,
    /// Parameters.
    pub num_parameters: u64,
    /// `cpu`, `cuda`.
    pub device: String,
    /// Most tokens a sequence can have, prompt and answer together.
    pub max_model_len: usize,
    /// Entries of the vocabulary; a token id is below it.
    pub vocab_size: usize,
    /// Most sequences a step runs.
    pub max_num_seqs: usize,
    /// Tokens a KV block; 0 for a model without a cache.
    pub block_size: usize,
    /// KV blocks in the pool; 0 for a model without a cache.
    pub num_blocks: usize,
    /// Length of an embedding; 0 for other tasks.
    pub embedding_dims: usize,
    /// Jinja source of the chat template, when the model has one.
    pub chat_template: Option<String>,
    /// Text of the begin-of-sequence token, as templates want it.
    pub bos_token: Option<String>,
    /// Text of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// Ids that end a generation.
    pub stop_token_ids: Vec<u32>,
    /// The model's own sampling defaults (generation_config.json), applied where a request is silent.
    pub default_sampling: DefaultSampling,
}

/// Sampling defaults that a checkpoint brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DefaultSampling {
    /// `temperature`.
    pub temperature: Option<f32>,
    /// `top_k`.
    pub top_k: Option<u32>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f32>,
}
