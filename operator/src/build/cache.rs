//! A volume for the weights, and the job that fills it: fetched once, read by every replica.

use ferrum_crds::{ModelSource, names};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec,
            VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    labels, metadata,
    pod::{self, Access, Mounts},
    short_hash,
};
use crate::validate::Validated;

/// Failures after which the kubelet no longer tries: at its longest pause of five minutes, several hours.
const BACKOFF_LIMIT: i32 = 60;

/// Builds the claim, if the model has a cache.
pub(super) fn build_claim(validated: &Validated) -> Option<PersistentVolumeClaim> {
    let cache = validated.model.cache()?;
    let name = names::cache_claim_name(validated.model.name());
    Some(PersistentVolumeClaim {
        metadata: metadata(validated, name, names::COMPONENT_CACHE),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![cache.access_mode.as_str().to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(pod::quantities(&[("storage", cache.size.as_str().to_owned())])),
                limits: None,
            }),
            storage_class_name: cache.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

/// Builds the job, if the model has a cache and its weights must be brought.
pub(super) fn build_fetch_job(validated: &Validated) -> Option<Job> {
    let (name, cache) = (fetch_job_name(validated)?, validated.model.cache()?);
    let Mounts { volumes, mounts } = pod::mounts(validated, Access::Write);
    let template = validated.model.pod_template();
    let container = Container {
        args: Some(vec![
            "pull".to_owned(),
            pod::model_argument(validated),
            format!("--max-bytes={}", cache.size_bytes),
            format!("--listen=0.0.0.0:{}", names::ENGINE_PORT),
            format!("--termination-log={}", pod::TERMINATION_LOG),
        ]),
        env: Some(pod::with_manifest_env(pod::hub_env(validated), validated)),
        image: Some(validated.image.clone()),
        image_pull_policy: validated.image_pull_policy.clone(),
        name: names::COMPONENT_FETCH.to_owned(),
        ports: Some(vec![pod::port()]),
        resources: Some(pod::requests(&[
            ("cpu", "100m".to_owned()),
            ("memory", "256Mi".to_owned()),
        ])),
        security_context: Some(pod::container_security()),
        termination_message_path: Some(pod::TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let pods = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(validated, names::COMPONENT_FETCH)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: template.affinity.clone(),
            automount_service_account_token: Some(false),
            containers: vec![container],
            enable_service_links: Some(false),
            node_selector: template.node_selector.clone(),
            priority_class_name: template.priority_class_name.clone(),
            restart_policy: Some("OnFailure".to_owned()),
            security_context: Some(pod::pod_security()),
            tolerations: template.tolerations.clone(),
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    };
    let mut metadata = metadata(validated, name, names::COMPONENT_FETCH);
    // A job cannot be changed; this tells one that is out of date.
    let hash = (names::ANNOTATION_LAUNCH_HASH.to_owned(), short_hash(&pods));
    metadata.annotations = Some([hash].into());
    Some(Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(BACKOFF_LIMIT),
            template: pods,
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// Name of the job that brings the weights; `None` when engines read them without one.
pub(crate) fn fetch_job_name(validated: &Validated) -> Option<String> {
    validated.model.cache()?;
    match validated.model.source() {
        ModelSource::Hub { .. } | ModelSource::Web { .. } => {}
        ModelSource::Claim { .. } | ModelSource::File { .. } => return None,
    }
    Some(names::fetch_job_name(
        validated.model.name(),
        &fetch_hash(validated),
    ))
}

/// What decides which weights are fetched, and from where.
fn fetch_hash(validated: &Validated) -> String {
    short_hash(&(
        validated.model.name(),
        validated.model.source().to_string(),
        &validated.hub_endpoint,
    ))
}
