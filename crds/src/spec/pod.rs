//! What a cluster's own rules need in the engine pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod_schema;

/// Additions to the engine pods. What is not here is ferrum's own business.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::labels")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Taints of nodes that the pods accept, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::tolerations")]
    pub tolerations: Option<Vec<Toleration>>,

    /// Nodes and neighbours that the pods prefer or need, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::affinity")]
    pub affinity: Option<Affinity>,

    /// RuntimeClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,

    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Requests and limits of the engine's container, as in a container; GPUs come from tensorParallel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::resources")]
    pub resources: Option<ResourceRequirements>,

    /// Environment of the engine's container, as in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::env")]
    pub env: Option<Vec<EnvVar>>,

    /// Labels of the pods, beside ferrum's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::labels")]
    pub labels: Option<BTreeMap<String, String>>,

    /// Annotations of the pods, beside ferrum's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_schema::annotations")]
    pub annotations: Option<BTreeMap<String, String>>,
}
