//! How many replicas, and how they are replaced.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds and aims of the number of replicas, which then follows the demand. Not together with replicas.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Fewest replicas. 0 stops the model when nobody uses it; the next request is held until a replica is ready.
    /// Without it, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: Option<i32>,

    /// Most replicas; at least minReplicas.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,

    /// When a replica is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ScalingTarget>,

    /// Seconds for which fewer replicas must have sufficed before one is taken away. Without it, 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_delay_seconds: Option<i32>,
}

/// When a replica is added: as soon as either value is exceeded.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingTarget {
    /// Share of the replicas' measured capacity (tokens in flight) that should be in use, in percent. Without it, 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub utilization_percent: Option<i32>,

    /// Most prompt tokens that may wait for each replica. Without it, 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub waiting_tokens: Option<i32>,
}

/// How replicas are replaced after a change: new ones start beside the old ones, which go once the new are ready.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Replicas that may exist beyond the number asked for while they are replaced. Without it, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_surge: Option<i32>,

    /// Seconds that a replica which must go may take to finish its requests. Without it, 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_timeout_seconds: Option<i32>,
}
