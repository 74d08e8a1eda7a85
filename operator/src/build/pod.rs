//! What engine pods and fetch pods share: who they run as, what they mount, how they reach the hub.

use std::collections::BTreeMap;

use ferrum_crds::{ModelSource, names};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HostPathVolumeSource,
        PersistentVolumeClaimVolumeSource, PodSecurityContext, ResourceRequirements, SeccompProfile,
        SecretKeySelector, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::validate::Validated;

/// Where the model hub's files are in a pod (`HF_HOME`).
pub(super) const HUB_HOME: &str = "/var/lib/ferrum";
/// Where a `pvc://` model's volume is in a pod.
pub(super) const CLAIM_HOME: &str = "/mnt/model";
/// Where a program tells why it ended.
pub(super) const TERMINATION_LOG: &str = "/dev/termination-log";
/// The user of every image.
const USER: i64 = 65532;

/// Volumes and where they are mounted.
pub(super) struct Mounts {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
}

/// Volumes of a pod; the cache is only written by the job that fills it.
pub(super) fn mounts(validated: &Validated, cache: Access) -> Mounts {
    let mut all = Mounts {
        volumes: Vec::new(),
        mounts: Vec::new(),
    };
    let hub = match validated.model.cache() {
        Some(_) => volume_of_claim("hub", names::cache_claim_name(validated.model.name())),
        None => Volume {
            name: "hub".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    };
    let is_read_only = cache == Access::Read && validated.model.cache().is_some();
    all.add(hub, HUB_HOME, is_read_only);
    match validated.model.source() {
        ModelSource::Claim { claim, .. } => {
            all.add(volume_of_claim("model", claim.clone()), CLAIM_HOME, true)
        }
        ModelSource::File { path } => {
            let path = path.display().to_string();
            let on_node = Volume {
                name: "model".to_owned(),
                host_path: Some(HostPathVolumeSource {
                    path: path.clone(),
                    type_: None,
                }),
                ..Volume::default()
            };
            all.add(on_node, &path, true);
        }
        ModelSource::Hub { .. } | ModelSource::Web { .. } => {}
    }
    all
}

/// What a pod does with the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Mounts {
    fn add(&mut self, volume: Volume, path: &str, is_read_only: bool) {
        self.mounts.push(VolumeMount {
            mount_path: path.to_owned(),
            name: volume.name.clone(),
            read_only: is_read_only.then_some(true),
            ..VolumeMount::default()
        });
        self.volumes.push(volume);
    }
}

/// The model as the program in the pod is told it.
pub(super) fn model_argument(validated: &Validated) -> String {
    match validated.model.source() {
        ModelSource::Claim { path, .. } if path.is_empty() => format!("file://{CLAIM_HOME}"),
        ModelSource::Claim { path, .. } => format!("file://{CLAIM_HOME}/{path}"),
        source => source.to_string(),
    }
}

/// How a pod reaches the hub.
pub(super) fn hub_env(validated: &Validated) -> Vec<EnvVar> {
    let mut env = vec![plain("HF_HOME", HUB_HOME)];
    if let Some(endpoint) = &validated.hub_endpoint {
        env.push(plain("HF_ENDPOINT", endpoint));
    }
    if let Some(token) = validated.model.hf_token() {
        env.push(EnvVar {
            name: "HF_TOKEN".to_owned(),
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    key: token.key.clone(),
                    name: token.name.clone(),
                    optional: None,
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
    env
}

/// `env` with what the manifest adds; a name that both have is the manifest's.
pub(super) fn with_manifest_env(env: Vec<EnvVar>, validated: &Validated) -> Vec<EnvVar> {
    let added = validated.model.pod_template().env.clone().unwrap_or_default();
    let mut all: Vec<_> = env
        .into_iter()
        .filter(|own| !added.iter().any(|theirs| theirs.name == own.name))
        .collect();
    all.extend(added);
    all
}

pub(super) fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    }
}

/// What Pod Security `restricted` asks for.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(USER),
        // A large cache is not walked through at every start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Where engines answer, and all pods tell how far they are.
pub(super) fn port() -> ContainerPort {
    ContainerPort {
        container_port: i32::from(names::ENGINE_PORT),
        name: Some(names::ENGINE_PORT_NAME.to_owned()),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// `amounts` of requests.
pub(super) fn requests(amounts: &[(&str, String)]) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(amounts)),
        ..ResourceRequirements::default()
    }
}

pub(super) fn quantities(amounts: &[(&str, String)]) -> BTreeMap<String, Quantity> {
    amounts
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity(amount.clone())))
        .collect()
}

fn volume_of_claim(name: &str, claim: String) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim,
            read_only: None,
        }),
        ..Volume::default()
    }
}
