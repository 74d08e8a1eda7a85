//! The FerrumModel resource. Doc comments of fields become the descriptions in the CRD.

mod engine;
mod pod;
mod pod_schema;
mod scaling;
mod size;
mod storage;
mod task;
mod words;

use ferrum_engine::{Device, Dtype, Quantization};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use self::{
    engine::EngineSpec,
    pod::PodTemplate,
    scaling::{AutoscalingSpec, RolloutSpec, ScalingTarget},
    size::MemorySize,
    storage::{AccessMode, CacheSpec, SecretKeyRef},
    task::ModelTask,
};
use crate::status::FerrumModelStatus;

/// What a FerrumModel asks for.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "ferrum.dev",
    version = "v1alpha1",
    kind = "FerrumModel",
    namespaced,
    shortname = "fm",
    category = "all",
    category = "ferrum",
    derive = "Default",
    derive = "PartialEq",
    doc = "A model and how it is served: replicas of an engine behind one OpenAI endpoint.",
    status = "FerrumModelStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.ready",
        description = "Replicas that answer, of those wanted"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not"
    ),
    printcolumn(
        name = "Task",
        type_ = "string",
        json_path = ".status.task",
        description = "What the model is for"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.model",
        description = "Where the weights come from"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Device",
        type_ = "string",
        json_path = ".spec.device",
        description = "Device that the engines run on",
        priority = 1
    ),
    printcolumn(
        name = "Architecture",
        type_ = "string",
        json_path = ".status.weights.architecture",
        description = "What the weights are",
        priority = 1
    ),
    printcolumn(
        name = "Context",
        type_ = "integer",
        json_path = ".status.weights.contextLength",
        description = "Most tokens of a sequence",
        priority = 1
    ),
    printcolumn(
        name = "KV-Blocks",
        type_ = "integer",
        json_path = ".status.weights.kvBlocks",
        description = "Blocks of the KV cache of each replica",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What to know or to do",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
// Several printer columns have the same type and priority, which is no mistake.
#[allow(clippy::duplicated_attributes)]
pub struct FerrumModelSpec {
    /// Where the weights come from: `hf://org/name` or `hf://org/name@revision` on the model hub, `https://….gguf` for
    /// one file, `pvc://claim/path` for a folder or a .gguf file in a volume of the model's namespace,
    /// `file:///absolute/path` for one on the node (an operator allows that only if it is told to).
    #[schemars(length(min = 1, max = 512))]
    pub model: String,

    /// What the model is for: chat, embedding, transcription or speech. Without it, the weights decide. This version
    /// serves chat and embedding; of the others it says so in the condition Accepted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "words")]
    #[schemars(schema_with = "words::schema::<ModelTask>")]
    pub task: Option<ModelTask>,

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

    /// Engine replicas. Without it and without autoscaling, 1; 0 keeps the model known and stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Lets the number of replicas follow the demand. Not together with replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,

    /// Settings of each engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSpec>,

    /// A volume into which the weights are fetched once, for all replicas. Without it, each replica fetches its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSpec>,

    /// Token of the model hub, for models that are private or gated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_token_secret_ref: Option<SecretKeyRef>,

    /// Additions to the engine pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// How replicas are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
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
