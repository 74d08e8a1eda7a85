//! Settings of an engine.

use ferrum_engine::OutputLayer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MemorySize, words};

/// Settings of one engine; each has a default that suits the model and the machine.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EngineSpec {
    /// Most tokens that a sequence can have, prompt and answer together. Without it, the model's own limit, bounded
    /// by the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 16_777_216))]
    pub max_model_len: Option<i32>,

    /// Most sequences in one step. Without it, 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_num_seqs: Option<i32>,

    /// Most tokens in one step; longer prompts are computed in chunks. At least maxNumSeqs. Without it, 512 or
    /// maxNumSeqs if that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_num_batched_tokens: Option<i32>,

    /// Memory for the KV cache of one replica, such as 512Mi or 8Gi. Without it, what the model and free memory
    /// suggest. Not for task embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_memory: Option<MemorySize>,

    /// Whether a request gets the same tokens whatever else runs beside it. On device cpu it always does; on GPUs sums
    /// are made in one order, which costs speed. Without it, false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_invariant: Option<bool>,

    /// How the output layer is kept. int8 keeps a dense one at 8 bits: steps are shorter, above all beside quantized weights,
    /// and logits a little less exact. Not for task embedding. Without it, auto: as the checkpoint has it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<OutputLayer>")]
    pub output_layer: Option<OutputLayer>,

    /// Whether the start of a prompt that was computed before is reused. Without it, true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_caching: Option<bool>,
}
