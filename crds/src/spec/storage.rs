//! Where weights are kept, and the key to get them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::MemorySize;

/// A volume into which the weights are fetched once; every replica reads them from there.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheSpec {
    /// Size of the volume, such as 20Gi. May grow later where the storage class allows it, never shrink.
    pub size: MemorySize,

    /// Storage class of the volume; cannot be changed later. Without it, the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// Who may mount the volume; cannot be changed later. Replicas on several nodes need ReadWriteMany. Without it,
    /// ReadWriteOnce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "access_mode_schema")]
    pub access_mode: Option<AccessMode>,
}

/// Who may mount a volume.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// The pods of one node.
    #[default]
    ReadWriteOnce,
    /// The pods of every node.
    ReadWriteMany,
}

impl AccessMode {
    /// Every value.
    pub const ALL: &[Self] = &[Self::ReadWriteOnce, Self::ReadWriteMany];

    /// The word in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}

/// A value in a Secret of the model's namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn access_mode_schema(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<_> = AccessMode::ALL.iter().map(|mode| mode.as_str()).collect();
    json_schema!({"type": "string", "enum": words})
}
