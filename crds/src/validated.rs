//! A FerrumModel with every default applied: the one type that everything behind validation reads.

use ferrum_engine::{LaunchConfig, Task, parse_bytes};
use serde_json::Value;

use crate::{
    AccessMode, AutoscalingSpec, CacheSpec, EngineSpec, FerrumModel, FerrumModelSpec, FieldPath, MemorySize,
    ModelSource, ModelTask, PodTemplate, Problem, RolloutSpec, SecretKeyRef, validate,
};

/// A FerrumModel that can be served, with every default applied.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedModel {
    name: String,
    namespace: Option<String>,
    source: ModelSource,
    served_names: Vec<String>,
    scaling: Scaling,
    launch: LaunchConfig,
    cache: Option<Cache>,
    hf_token: Option<SecretKeyRef>,
    pod_template: PodTemplate,
    rollout: Rollout,
}

/// How many replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// As many as the demand needs.
    Auto(Autoscaling),
    /// Always so many; 0 is a model that is stopped.
    Fixed(usize),
}

/// Bounds and aims of the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoscaling {
    /// Fewest replicas; 0 allows to stop the model while nobody uses it.
    pub min_replicas: usize,
    /// Most replicas, at least 1 and `min_replicas`.
    pub max_replicas: usize,
    /// Share of the measured capacity that should be in use, 1 to 100.
    pub utilization_percent: u32,
    /// Most prompt tokens that may wait for each replica.
    pub waiting_tokens: u64,
    /// How long fewer replicas must have sufficed before one is taken away.
    pub scale_down_delay_seconds: u64,
}

/// A volume for the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Size as a Kubernetes quantity.
    pub size: MemorySize,
    /// The same in bytes.
    pub size_bytes: u64,
    /// Storage class; `None` is the cluster's default.
    pub storage_class_name: Option<String>,
    /// Who may mount it.
    pub access_mode: AccessMode,
}

/// How replicas are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Replicas beyond the number asked for.
    pub max_surge: usize,
    /// How long a replica may take to finish its requests.
    pub drain_timeout_seconds: u64,
}

impl ValidatedModel {
    /// Validates an object as it was written: `apiVersion`, `kind`, `metadata`, `spec`.
    ///
    /// # Errors
    /// Every problem, never only the first.
    pub fn from_value(object: &Value) -> Result<Self, Vec<Problem>> {
        let problems = validate::find_problems(object);
        if !problems.is_empty() {
            return Err(problems);
        }
        build(object).map_err(|problem| vec![problem])
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Namespace of the object; a manifest file may leave it out, an object of a cluster has one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
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

    /// How many replicas, or what decides it.
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Replicas where nothing scales them: as asked for, or the fewest that autoscaling allows but at least 1.
    pub fn replicas(&self) -> usize {
        match self.scaling {
            Scaling::Auto(autoscaling) => autoscaling.min_replicas.max(1),
            Scaling::Fixed(replicas) => replicas,
        }
    }

    /// How each of its engines is launched; host, port and the like have their defaults.
    pub fn launch_config(&self) -> LaunchConfig {
        self.launch.clone()
    }

    /// The volume for its weights, if one is asked for.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Secret with the token of the model hub.
    pub fn hf_token(&self) -> Option<&SecretKeyRef> {
        self.hf_token.as_ref()
    }

    /// Additions to the engine pods.
    pub fn pod_template(&self) -> &PodTemplate {
        &self.pod_template
    }

    /// How replicas are replaced.
    pub fn rollout(&self) -> Rollout {
        self.rollout
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
    let rollout = rollout(spec.rollout.as_ref());
    let launch = LaunchConfig {
        served_names: served_names.clone(),
        drain_timeout_seconds: rollout.drain_timeout_seconds,
        ..launch_config(&source, &spec)
    };
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
        namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
        source,
        served_names,
        scaling: match &spec.autoscaling {
            Some(autoscaling) => Scaling::Auto(scaling(autoscaling)),
            None => Scaling::Fixed(whole(spec.replicas).unwrap_or(1)),
        },
        launch,
        cache: spec.cache.map(cache),
        hf_token: spec.hf_token_secret_ref,
        pod_template: spec.pod_template.unwrap_or_default(),
        rollout,
    })
}

fn launch_config(source: &ModelSource, spec: &FerrumModelSpec) -> LaunchConfig {
    let defaults = LaunchConfig::new(source.to_string());
    let EngineSpec {
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens,
        kv_cache_memory,
        batch_invariant,
        output_layer,
        prefix_caching,
    } = spec.engine.clone().unwrap_or_default();
    let max_num_seqs = whole(max_num_seqs).unwrap_or(defaults.max_num_seqs);
    LaunchConfig {
        task: spec.task.and_then(ModelTask::served),
        device: spec.device.unwrap_or(defaults.device),
        dtype: spec.dtype.unwrap_or(defaults.dtype),
        quantization: spec.quantization.unwrap_or(defaults.quantization),
        tensor_parallel: whole(spec.tensor_parallel).unwrap_or(defaults.tensor_parallel),
        max_model_len: whole(max_model_len),
        max_num_seqs,
        max_num_batched_tokens: whole(max_num_batched_tokens)
            .unwrap_or(defaults.max_num_batched_tokens.max(max_num_seqs)),
        kv_cache_memory: kv_cache_memory.and_then(|size| parse_bytes(size.as_str()).ok()),
        batch_invariant: batch_invariant.unwrap_or(defaults.batch_invariant),
        output_layer: output_layer.unwrap_or(defaults.output_layer),
        prefix_caching: prefix_caching.unwrap_or(defaults.prefix_caching),
        ..defaults
    }
}

fn scaling(spec: &AutoscalingSpec) -> Autoscaling {
    let target = spec.target.clone().unwrap_or_default();
    Autoscaling {
        min_replicas: whole(spec.min_replicas).unwrap_or(1),
        max_replicas: whole(Some(spec.max_replicas)).unwrap_or(1),
        utilization_percent: whole(target.utilization_percent).unwrap_or(80),
        waiting_tokens: whole(target.waiting_tokens).unwrap_or(4096),
        scale_down_delay_seconds: whole(spec.scale_down_delay_seconds).unwrap_or(300),
    }
}

fn cache(spec: CacheSpec) -> Cache {
    Cache {
        size_bytes: parse_bytes(spec.size.as_str()).unwrap_or(0),
        size: spec.size,
        storage_class_name: spec.storage_class_name,
        access_mode: spec.access_mode.unwrap_or_default(),
    }
}

fn rollout(spec: Option<&RolloutSpec>) -> Rollout {
    Rollout {
        max_surge: whole(spec.and_then(|spec| spec.max_surge)).unwrap_or(1),
        drain_timeout_seconds: whole(spec.and_then(|spec| spec.drain_timeout_seconds)).unwrap_or(120),
    }
}

/// A number that the schema holds to zero and more.
fn whole<N: TryFrom<i32>>(number: Option<i32>) -> Option<N> {
    number.and_then(|number| N::try_from(number).ok())
}
