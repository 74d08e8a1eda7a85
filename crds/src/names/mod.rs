//! Every name that two components must agree on: labels, annotations, ports, conditions, field managers.

mod condition;

pub use self::condition::{ConditionReason, ConditionType, UnknownWord};

/// API group of every resource.
pub const GROUP: &str = "ferrum.dev";
/// API version of [`crate::FerrumModel`].
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` in a manifest.
pub const API_VERSION: &str = "ferrum.dev/v1alpha1";
/// `kind` in a manifest.
pub const KIND: &str = "FerrumModel";

/// What begins every label and annotation of ours.
pub const PREFIX: &str = "ferrum.dev/";

/// Label: the FerrumModel that an object belongs to.
pub const LABEL_MODEL: &str = "ferrum.dev/model";
/// Label: the program that an object belongs to.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label: what the object is part of: one of the `COMPONENT_` constants.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: who made the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_NAME`] and [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "ferrum";
/// Value of [`LABEL_COMPONENT`]: pods that serve a model.
pub const COMPONENT_ENGINE: &str = "engine";
/// Value of [`LABEL_COMPONENT`]: jobs and pods that fetch weights into a cache.
pub const COMPONENT_FETCH: &str = "fetch";
/// Value of [`LABEL_COMPONENT`]: volume claims for weights.
pub const COMPONENT_CACHE: &str = "cache";
/// Value of [`LABEL_COMPONENT`]: the router's pods.
pub const COMPONENT_ROUTER: &str = "router";
/// Value of [`LABEL_COMPONENT`]: the operator's pods.
pub const COMPONENT_OPERATOR: &str = "operator";
/// Labels that are ferrum's own besides everything below [`PREFIX`]; a pod template may not set them.
pub const OWN_LABELS: &[&str] = &[LABEL_NAME, LABEL_COMPONENT, LABEL_MANAGED_BY];

/// Annotation: the OpenAI names that a replica serves, separated by commas.
pub const ANNOTATION_SERVED_NAMES: &str = "ferrum.dev/served-names";
/// Annotation: hash of the launch configuration that a replica was started with.
pub const ANNOTATION_LAUNCH_HASH: &str = "ferrum.dev/launch-hash";
/// Annotation of an engine pod: `true` once it is to go; routers choose it no more.
pub const ANNOTATION_DRAINING: &str = "ferrum.dev/draining";
/// Annotation of a pod that a ReplicaSet obeys: pods with the lowest number go first.
pub const ANNOTATION_POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Field manager of server-side apply.
pub const FIELD_MANAGER: &str = "ferrum-operator";
/// Name of the operator's lease.
pub const LEASE_NAME: &str = "ferrum-operator";

/// Port of an engine: HTTP and gRPC.
pub const ENGINE_PORT: u16 = 8080;
/// Name of the engine's port in pods and services.
pub const ENGINE_PORT_NAME: &str = "http";
/// Name of the engine's container.
pub const ENGINE_CONTAINER: &str = "engine";
/// Port of the router: HTTP, for clients.
pub const ROUTER_PORT: u16 = 8080;
/// Name of the router's port for clients.
pub const ROUTER_PORT_NAME: &str = "http";
/// Port of the router for the cluster: health, metrics and the demand stream.
pub const ROUTER_CONTROL_PORT: u16 = 8081;
/// Name of the router's port for the cluster.
pub const ROUTER_CONTROL_PORT_NAME: &str = "control";
/// Port of the operator: health and metrics.
pub const OPERATOR_PORT: u16 = 8081;
/// Name of the operator's port.
pub const OPERATOR_PORT_NAME: &str = "http";

/// Resource of a node and a container: NVIDIA GPUs.
pub const RESOURCE_NVIDIA_GPU: &str = "nvidia.com/gpu";

/// Name of the volume claim for the weights of `model`.
pub fn cache_claim_name(model: &str) -> String {
    format!("{model}-cache")
}

/// Name of the job that fetches weights for `model`; `hash` of at most 10 characters covers the model's whole name and
/// all that the fetch depends on, since a long name is cut: a job's name is a label too, of at most 63 characters.
pub fn fetch_job_name(model: &str, hash: &str) -> String {
    let room = 63_usize.saturating_sub("-fetch-".len() + hash.len());
    let cut = model.get(..room).unwrap_or(model).trim_end_matches('-');
    format!("{cut}-fetch-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_fit_into_a_label() {
        assert_eq!(fetch_job_name("qwen", "0123456789"), "qwen-fetch-0123456789");
        let longest = fetch_job_name(&"x".repeat(63), "0123456789");
        assert_eq!(longest.len(), 63);
        assert!(longest.ends_with("x-fetch-0123456789"), "{longest}");
    }
}
