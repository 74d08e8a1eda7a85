//! `/v1/embeddings`.

use serde::{Deserialize, Serialize};

use crate::{Input, Usage};

/// The request, as it came: types are right, values are not checked yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingRequest {
    /// A name from `/v1/models`.
    pub model: String,
    /// Texts, or their token ids with the special ones.
    pub input: Input,
    /// Keep the first so many elements and normalise again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<i64>,
    /// `float` (default) or `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<String>,
    /// Hint: who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingResponse {
    /// `list`.
    pub object: String,
    /// One a text, in the order of the input.
    pub data: Vec<EmbeddingData>,
    /// The model's first name.
    pub model: String,
    /// Tokens read.
    pub usage: Usage,
}

/// The vector of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingData {
    /// `embedding`.
    pub object: String,
    /// Place in the input.
    pub index: u32,
    /// The vector.
    pub embedding: EmbeddingVector,
}

/// A vector in either encoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// Little-endian f32 values in base64.
    Base64(String),
    /// Numbers.
    Float(Vec<f32>),
}
