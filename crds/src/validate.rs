//! From a raw object to the one type that everything behind it reads.

use std::sync::LazyLock;

use ferrum_engine::{LaunchConfig, Task, parse_bytes};
use serde_json::{Value, json};

use crate::{
    EngineSpec, FerrumModel, FerrumModelSpec, FieldPath, MemorySize, ModelSource, Problem, crd::spec_schema,
    names, rules, shape,
};

/// A FerrumModel that can be served, with every default applied.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedModel {
    name: String,
    source: ModelSource,
    served_names: Vec<String>,
    replicas: usize,
    launch: LaunchConfig,
}

impl ValidatedModel {
    /// Validates an object as it was written: `apiVersion`, `kind`, `metadata`, `spec`.
    ///
    /// # Errors
    /// Every problem, never only the first.
    pub fn from_value(object: &Value) -> Result<Self, Vec<Problem>> {
        let mut problems = shape::find_problems(object, object_schema(), &FieldPath::root());
        // A field whose shape is wrong has been named already; rules would only repeat it in other words.
        let mut broken_rules = rules::find_problems(object);
        broken_rules.retain(|rule| !problems.iter().any(|shape| shape.path == rule.path));
        problems.extend(broken_rules);
        if !problems.is_empty() {
            return Err(problems);
        }
        build(object).map_err(|problem| vec![problem])
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the weights come from.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// What the model is for; `None` leaves it to the weights.
    pub fn task(&self) -> Option<Task> {
        self.launch.task
    }

    /// OpenAI names that it answers to; never empty, the first is the main one.
    pub fn served_names(&self) -> &[String] {
        &self.served_names
    }

    /// Engines to run; 0 is a model that is stopped.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// How each of its engines is launched; host, port and the like have their defaults.
    pub fn launch_config(&self) -> LaunchConfig {
        self.launch.clone()
    }
}

impl TryFrom<&FerrumModel> for ValidatedModel {
    type Error = Vec<Problem>;

    fn try_from(model: &FerrumModel) -> Result<Self, Vec<Problem>> {
        let object = serde_json::to_value(model).map_err(|error| {
            vec![Problem::invalid(
                FieldPath::root(),
                &Value::Null,
                error.to_string(),
            )]
        })?;
        Self::from_value(&object)
    }
}

/// Schema of the whole object: the API server checks the envelope itself, outside of the CRD's schema.
fn object_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        json!({
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string", "enum": [names::API_VERSION]},
                "kind": {"type": "string", "enum": [names::KIND]},
                "metadata": metadata_schema(),
                "spec": spec_schema(),
                "status": {"type": "object"},
            },
            "required": ["apiVersion", "kind", "metadata", "spec"],
        })
    });
    &SCHEMA
}

/// What people write, and what a cluster adds to an object that is read back from it.
fn metadata_schema() -> Value {
    let map = json!({"type": "object"});
    let list = json!({"type": "array"});
    let text = json!({"type": "string", "minLength": 1, "maxLength": 253});
    let number = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
    json!({
        "type": "object",
        "properties": {
            "annotations": map,
            "creationTimestamp": text,
            "deletionGracePeriodSeconds": number,
            "deletionTimestamp": text,
            "finalizers": list,
            "generation": number,
            "labels": map,
            "managedFields": list,
            "name": text,
            "namespace": text,
            "ownerReferences": list,
            "resourceVersion": text,
            "uid": text,
        },
        "required": ["name"],
    })
}

/// Applies the defaults to an object without problems.
fn build(object: &Value) -> Result<ValidatedModel, Problem> {
    let spec_path = FieldPath::of("spec");
    // The schema comes from this very type, so this fails only if the two are out of step; say so instead of panicking.
    let spec: FerrumModelSpec = serde_json::from_value(object["spec"].clone())
        .map_err(|error| Problem::invalid(spec_path.clone(), &object["spec"], error.to_string()))?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let source = ModelSource::parse(&spec.model)
        .map_err(|expected| Problem::invalid(spec_path.key("model"), &Value::from(&*spec.model), expected))?;
    let served_names = spec.served_names.clone().unwrap_or_else(|| vec![name.clone()]);
    let replicas = at_least_zero(spec.replicas).unwrap_or(1);
    let launch = launch_config(&source, &served_names, spec);
    let contradiction = |error: ferrum_engine::LaunchError| {
        Problem::invalid(
            spec_path.clone(),
            &Value::from(error.value),
            format!("{} for --{}", error.allowed, error.flag),
        )
    };
    launch.validate().map_err(contradiction)?;
    Ok(ValidatedModel {
        name,
        source,
        served_names,
        replicas,
        launch,
    })
}

fn launch_config(source: &ModelSource, served_names: &[String], spec: FerrumModelSpec) -> LaunchConfig {
    let defaults = LaunchConfig::new(source.to_string());
    let EngineSpec {
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens,
        kv_cache_memory,
        prefix_caching,
    } = spec.engine.unwrap_or_default();
    let max_num_seqs = at_least_zero(max_num_seqs).unwrap_or(defaults.max_num_seqs);
    LaunchConfig {
        served_names: served_names.to_vec(),
        task: spec.task,
        device: spec.device.unwrap_or(defaults.device),
        dtype: spec.dtype.unwrap_or(defaults.dtype),
        quantization: spec.quantization.unwrap_or(defaults.quantization),
        tensor_parallel: at_least_zero(spec.tensor_parallel).unwrap_or(defaults.tensor_parallel),
        max_model_len: at_least_zero(max_model_len),
        max_num_seqs,
        max_num_batched_tokens: at_least_zero(max_num_batched_tokens)
            .unwrap_or(defaults.max_num_batched_tokens.max(max_num_seqs)),
        kv_cache_memory: kv_cache_memory
            .as_ref()
            .map(MemorySize::as_str)
            .and_then(|text| parse_bytes(text).ok()),
        prefix_caching: prefix_caching.unwrap_or(defaults.prefix_caching),
        ..defaults
    }
}

fn at_least_zero(number: Option<i32>) -> Option<usize> {
    number.and_then(|number| usize::try_from(number).ok())
}
