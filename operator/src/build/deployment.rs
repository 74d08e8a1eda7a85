//! The engines of a model: a Deployment whose new pods answer before old ones go.

use std::collections::BTreeMap;

use ferrum_crds::names;
use ferrum_engine::{Device, LaunchConfig};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{Container, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, ResourceRequirements},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    labels, metadata,
    pod::{self, Access, Mounts},
    selector, short_hash,
};
use crate::validate::Validated;

/// Time after the drain in which a process may end by itself.
const AFTER_DRAIN_SECONDS: u64 = 10;
/// Weights of hundreds of gigabytes take their time; a start that has a reason to fail says so much earlier.
const PROGRESS_DEADLINE_SECONDS: i32 = 3600;
/// Requested for an engine without `podTemplate.resources`: room for a small model. There is no limit, since a limit
/// that is too small ends an engine, and one that is too large says nothing.
const DEFAULT_CPU: &str = "500m";
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;

/// Builds the Deployment.
pub(super) fn build_deployment(validated: &Validated, replicas: i32) -> Deployment {
    let rollout = validated.model.rollout();
    let max_surge = i32::try_from(rollout.max_surge).unwrap_or(i32::MAX);
    Deployment {
        metadata: metadata(
            validated,
            validated.model.name().to_owned(),
            names::COMPONENT_ENGINE,
        ),
        spec: Some(DeploymentSpec {
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            replicas: Some(replicas),
            revision_history_limit: Some(2),
            selector: LabelSelector {
                match_labels: Some(selector(validated, names::COMPONENT_ENGINE)),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(max_surge)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
                type_: Some("RollingUpdate".to_owned()),
            }),
            template: build_template(validated),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn build_template(validated: &Validated) -> PodTemplateSpec {
    let template = validated.model.pod_template();
    let launch = launch_config(validated);
    let Mounts { volumes, mounts } = pod::mounts(validated, Access::Read);
    let mut pod_labels = template.labels.clone().unwrap_or_default();
    pod_labels.extend(labels(validated, names::COMPONENT_ENGINE));
    let mut annotations = template.annotations.clone().unwrap_or_default();
    annotations.extend(own_annotations(&launch));
    let drain = validated.model.rollout().drain_timeout_seconds;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some(annotations),
            labels: Some(pod_labels),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: template.affinity.clone(),
            automount_service_account_token: Some(false),
            containers: vec![build_container(validated, &launch, mounts)],
            enable_service_links: Some(false),
            node_selector: template.node_selector.clone(),
            priority_class_name: template.priority_class_name.clone(),
            runtime_class_name: template.runtime_class_name.clone(),
            security_context: Some(pod::pod_security()),
            termination_grace_period_seconds: i64::try_from(drain + AFTER_DRAIN_SECONDS).ok(),
            tolerations: template.tolerations.clone(),
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

fn build_container(
    validated: &Validated,
    launch: &LaunchConfig,
    mounts: Vec<k8s_openapi::api::core::v1::VolumeMount>,
) -> Container {
    let mut args = vec!["serve".to_owned()];
    args.extend(launch.to_args());
    args.push(format!("--termination-log={}", pod::TERMINATION_LOG));
    let mut env = pod::hub_env(validated);
    if validated.model.cache().is_some() {
        // The cache is complete, and mounted for reading: an engine that lacks a file says so at once.
        env.push(pod::plain("HF_HUB_OFFLINE", "1"));
    }
    Container {
        args: Some(args),
        env: Some(pod::with_manifest_env(env, validated)),
        image: Some(validated.image.clone()),
        image_pull_policy: validated.image_pull_policy.clone(),
        name: names::ENGINE_CONTAINER.to_owned(),
        ports: Some(vec![pod::port()]),
        readiness_probe: Some(Probe {
            failure_threshold: Some(3),
            http_get: Some(HTTPGetAction {
                path: Some("/health".to_owned()),
                port: IntOrString::String(names::ENGINE_PORT_NAME.to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(1),
            timeout_seconds: Some(2),
            ..Probe::default()
        }),
        resources: Some(build_resources(validated, launch)),
        security_context: Some(pod::container_security()),
        termination_message_path: Some(pod::TERMINATION_LOG.to_owned()),
        // What an engine that was killed wrote last is better than nothing.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn launch_config(validated: &Validated) -> LaunchConfig {
    LaunchConfig {
        model: pod::model_argument(validated),
        host: "0.0.0.0".to_owned(),
        port: names::ENGINE_PORT,
        ..validated.model.launch_config()
    }
}

fn own_annotations(launch: &LaunchConfig) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            names::ANNOTATION_LAUNCH_HASH.to_owned(),
            short_hash(&launch.to_args()),
        ),
        (
            names::ANNOTATION_SERVED_NAMES.to_owned(),
            launch.served_names.join(","),
        ),
    ])
}

fn build_resources(validated: &Validated, launch: &LaunchConfig) -> ResourceRequirements {
    let mut resources = match &validated.model.pod_template().resources {
        Some(resources) => resources.clone(),
        None if launch.device == Device::Cpu => {
            let memory = DEFAULT_MEMORY_BYTES.saturating_add(launch.kv_cache_memory.unwrap_or(0));
            pod::requests(&[("cpu", DEFAULT_CPU.to_owned()), ("memory", memory.to_string())])
        }
        None => ResourceRequirements::default(),
    };
    if launch.device == Device::Cuda {
        let gpus = Quantity(launch.tensor_parallel.to_string());
        let limits = resources.limits.get_or_insert_default();
        limits.insert(names::RESOURCE_NVIDIA_GPU.to_owned(), gpus);
    }
    resources
}
