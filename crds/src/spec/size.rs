//! A number of bytes.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes as Kubernetes writes it: `512Mi`, `8Gi`, or a plain number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySize(String);

impl MemorySize {
    /// The text as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MemorySize {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Serialize for MemorySize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Self(bytes.to_string()),
            Written::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for MemorySize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MemorySize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 32})
    }
}
