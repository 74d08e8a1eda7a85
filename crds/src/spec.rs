//! The FerrumModel resource. Doc comments of fields become the descriptions in the CRD.

use ferrum_engine::{Device, Dtype, Quantization, Task};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a FerrumModel asks for.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "ferrum.dev",
    version = "v1alpha1",
    kind = "FerrumModel",
    namespaced,
    shortname = "fm",
    category = "all",
    category = "ferrum",
    derive = "PartialEq",
    doc = "A model and how it is served: replicas of an engine behind one OpenAI endpoint.",
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.model",
        description = "Where the weights come from"
    ),
    printcolumn(
        name = "Task",
        type_ = "string",
        json_path = ".spec.task",
        description = "What the model is for"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Engine replicas asked for"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
// Two printer columns have the same type, which is no mistake.
#[allow(clippy::duplicated_attributes)]
pub struct FerrumModelSpec {
    /// Where the weights come from: `hf://org/name` or `hf://org/name@revision` on the model hub,
    /// `file:///absolute/path` for a folder or a .gguf file.
    #[schemars(length(min = 1, max = 512))]
    pub model: String,

    /// What the model is for: chat or embedding. Without it, the weights decide.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<Task>")]
    pub task: Option<Task>,

    /// Names that clients put into `model` of an OpenAI request. Without it, the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "served_names_schema")]
    pub served_names: Option<Vec<String>>,

    /// Device that the engine runs on. Without it, cpu.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<Device>")]
    pub device: Option<Device>,

    /// Element type of weights that are not quantized. Without it, auto: what the checkpoint has.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<Dtype>")]
    pub dtype: Option<Dtype>,

    /// Quantization that the weights must have. Without it, auto: what the checkpoint has.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<Quantization>")]
    pub quantization: Option<Quantization>,

    /// Devices that share one replica: a power of two, 1 on device cpu. Without it, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub tensor_parallel: Option<i32>,

    /// Engine replicas. Without it, 1; 0 keeps the model known and stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Settings of each engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSpec>,
}

/// Settings of one engine; each has a default that suits the model and the machine.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

    /// Whether the start of a prompt that was computed before is reused. Without it, true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_caching: Option<bool>,
}

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

fn served_names_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 128},
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
    })
}

/// The engine's own enums as words of a manifest, so that the list of words exists once.
mod words {
    use std::str::FromStr;

    use ferrum_engine::{Device, Dtype, Quantization, Task};
    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) trait Word: FromStr<Err = String> + Copy + 'static {
        fn words() -> Vec<&'static str>;
        fn word(self) -> &'static str;
    }

    macro_rules! word {
        ($($name:ident),*) => {$(
            impl Word for $name {
                fn words() -> Vec<&'static str> {
                    Self::ALL.iter().map(|value| value.as_str()).collect()
                }

                fn word(self) -> &'static str {
                    self.as_str()
                }
            }
        )*};
    }
    word!(Device, Dtype, Quantization, Task);

    pub(super) fn schema<W: Word>(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": W::words()})
    }

    pub(super) fn serialize<W: Word, S: Serializer>(
        value: &Option<W>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_str(value.word()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, W: Word, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<W>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}
