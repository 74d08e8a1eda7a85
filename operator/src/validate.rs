//! From what was read to what may be built; no client is needed.

use ferrum_crds::{FerrumModel, ModelSource, Problem, Reason, ValidatedModel, names::ConditionReason};
use ferrum_engine::Device;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;

use crate::{
    config::OperatorConfig,
    dereference::{Dereferenced, Referenced},
};

/// The single input of everything that is built.
#[derive(Clone, Debug)]
pub(crate) struct Validated {
    /// The model with every default applied.
    pub(crate) model: ValidatedModel,
    /// Its namespace.
    pub(crate) namespace: String,
    /// What makes everything go with the model.
    pub(crate) owner: OwnerReference,
    /// Image of its engines.
    pub(crate) image: String,
    /// `imagePullPolicy` of its pods.
    pub(crate) image_pull_policy: Option<String>,
    /// `HF_ENDPOINT` of its pods.
    pub(crate) hub_endpoint: Option<String>,
    /// What is wrong and yet no reason not to serve it: some of its names are another's.
    pub(crate) warning: Option<Refusal>,
}

/// Why something is not done: a stable word, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The word.
    pub(crate) reason: ConditionReason,
    /// The sentence.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Checks a model against itself, its references, and what this operator allows.
///
/// # Errors
/// The first reason not to build anything of it.
pub(crate) fn validate(found: &Dereferenced, config: &OperatorConfig) -> Result<Validated, Refusal> {
    let object = &*found.model;
    let model = ValidatedModel::try_from(object).map_err(|problems| {
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let is_unsupported = |problem: &Problem| matches!(problem.reason, Reason::Unsupported { .. });
        let reason = match problems.iter().all(is_unsupported) {
            true => ConditionReason::TaskNotSupported,
            false => ConditionReason::InvalidSpec,
        };
        Refusal::new(reason, told.join("; "))
    })?;
    let image = image(&model, config)?;
    if matches!(model.source(), ModelSource::File { .. }) && !config.allow_node_files {
        let message = format!(
            "spec.model: {} is a path of a node, which this cluster does not allow; use hf:// or pvc://, or set \
             operator.allowNodeFiles of the chart",
            model.source()
        );
        return Err(Refusal::new(ConditionReason::NodeFilesForbidden, message));
    }
    check_references(&model, found)?;
    let names_taken = found.names_taken.as_ref();
    if let Some(taken) = names_taken.filter(|taken| taken.is_all) {
        return Err(taken.refusal.clone());
    }
    Ok(Validated {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        owner: owner(object),
        image,
        image_pull_policy: config.image_pull_policy.clone(),
        hub_endpoint: config.hub_endpoint.clone(),
        warning: names_taken.map(|taken| taken.refusal.clone()),
        model,
    })
}

fn image(model: &ValidatedModel, config: &OperatorConfig) -> Result<String, Refusal> {
    match model.launch_config().device {
        Device::Cpu => Ok(config.engine_image.clone()),
        Device::Cuda => config.engine_image_cuda.clone().ok_or_else(|| {
            let message = "spec.device: cuda needs an engine image for CUDA, and this operator has none; set \
                           images.engineCuda of the chart";
            Refusal::new(ConditionReason::NoEngineImage, message)
        }),
    }
}

fn check_references(model: &ValidatedModel, found: &Dereferenced) -> Result<(), Refusal> {
    if let Some(reference) = model.hf_token() {
        let (name, key) = (&reference.name, &reference.key);
        match &found.hf_token {
            Referenced::Found => {}
            Referenced::Missing => {
                let message = format!(
                    "spec.hfTokenSecretRef.name: there is no Secret {name} in this namespace; create it: kubectl create \
                     secret generic {name} --from-literal={key}=hf_..."
                );
                return Err(Refusal::new(ConditionReason::SecretNotFound, message));
            }
            Referenced::WithoutKey(keys) => {
                let message = format!(
                    "spec.hfTokenSecretRef.key: Secret {name} has no key {key}; it has {}",
                    if keys.is_empty() {
                        "none".to_owned()
                    } else {
                        keys.join(", ")
                    }
                );
                return Err(Refusal::new(ConditionReason::SecretKeyMissing, message));
            }
        }
    }
    if let (ModelSource::Claim { claim, .. }, Referenced::Missing) = (model.source(), &found.claim) {
        let message = format!(
            "spec.model: there is no PersistentVolumeClaim {claim} in this namespace; create it or correct the name"
        );
        return Err(Refusal::new(ConditionReason::ClaimNotFound, message));
    }
    Ok(())
}

/// Without `blockOwnerDeletion`, which would need a permission on the model's finalizers.
fn owner(model: &FerrumModel) -> OwnerReference {
    OwnerReference {
        api_version: FerrumModel::api_version(&()).into_owned(),
        kind: FerrumModel::kind(&()).into_owned(),
        name: model.metadata.name.clone().unwrap_or_default(),
        uid: model.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
