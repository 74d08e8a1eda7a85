//! What the operator tells of a model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What became of a FerrumModel; written by the operator only.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FerrumModelStatus {
    /// `metadata.generation` that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Engine pods that exist, those that still start included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Engine pods that answer requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Engine pods that answer, of those wanted, such as 1/2: for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Labels of the engine pods, as kubectl scale and autoscalers of the cluster want them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// What the model is for: as the spec says, else as the weights say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,

    /// Accepted, WeightsCached, Scheduled, Loaded, Ready, Progressing and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// What the weights turned out to be, once a replica has loaded them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsStatus>,

    /// Where the time of the last replica's start went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStartStatus>,

    /// The last decision about the number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
}

impl FerrumModelStatus {
    /// Text of [`Self::ready`].
    pub fn ready_text(ready: usize, wanted: usize) -> String {
        format!("{ready}/{wanted}")
    }
}

/// What the weights turned out to be.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WeightsStatus {
    /// Architecture, as the checkpoint calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,

    /// Number of parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<i64>,

    /// Element type or quantization of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,

    /// Most tokens of a sequence, prompt and answer together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<i64>,

    /// Blocks of the KV cache of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_blocks: Option<i64>,
}

/// Where the time of a replica's start went.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ColdStartStatus {
    /// Seconds to find a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_seconds: Option<f64>,

    /// Seconds to get the image and start the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_seconds: Option<f64>,

    /// Seconds to get the weights onto disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_seconds: Option<f64>,

    /// Seconds to bring the weights onto the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_seconds: Option<f64>,

    /// Seconds to make the first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_seconds: Option<f64>,
}

/// A decision about the number of replicas.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// Replicas that the demand asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,

    /// Why so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// When the number changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "time_schema")]
    pub last_change: Option<Time>,
}

fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "lastTransitionTime": {
                    "description": "When status changed last.",
                    "type": "string",
                    "format": "date-time",
                },
                "message": {"description": "What to know or to do.", "type": "string", "maxLength": 32768},
                "observedGeneration": {
                    "description": "Generation of the object that it speaks of.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "reason": {
                    "description": "Why status is what it is, a word that stays the same from release to release.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": {
                    "description": "Whether it is so.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "type": {"description": "What it is about.", "type": "string", "maxLength": 316},
            },
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        },
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
