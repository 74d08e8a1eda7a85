//! The smallest models and pods that tests need.

use std::sync::Arc;

use ferrum_crds::FerrumModel;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde::de::DeserializeOwned;

use crate::{
    config::OperatorConfig,
    dereference::{Dereferenced, Observed, Referenced},
    validate::{Validated, validate},
};

/// Any object.
pub(crate) fn object<K: DeserializeOwned>(yaml: &str) -> K {
    serde_yaml::from_str(yaml).expect("a test's object")
}

/// The model `m` of namespace `n`; `spec` is YAML in one line without its braces.
pub(crate) fn model(spec: &str) -> FerrumModel {
    object(&format!(
        "{{apiVersion: ferrum.dev/v1alpha1, kind: FerrumModel, metadata: {{name: m, namespace: n, uid: u-1, generation: 3, \
         creationTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{{spec}}}}}"
    ))
}

/// An operator that allows what a test is about.
pub(crate) fn config() -> OperatorConfig {
    OperatorConfig {
        namespaces: Vec::new(),
        engine_image: "engine-cpu:1".to_owned(),
        engine_image_cuda: Some("engine-cuda:1".to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        listen: ([127, 0, 0, 1], 0).into(),
        lease_name: "lease".to_owned(),
        lease_namespace: "n".to_owned(),
        identity: "operator-0".to_owned(),
        router_selector: "a=b".to_owned(),
        router_control_port: 1,
        allow_node_files: true,
        hub_endpoint: None,
    }
}

/// What a model refers to, all found.
pub(crate) fn found(spec: &str) -> Dereferenced {
    Dereferenced {
        model: Arc::new(model(spec)),
        hf_token: Referenced::Found,
        claim: Referenced::Found,
        names_taken: None,
        observed: Observed::default(),
    }
}

pub(crate) fn validated(spec: &str) -> Validated {
    validate(&found(spec), &config()).expect("valid")
}

/// An engine pod with this status, YAML in one line without its braces.
pub(crate) fn pod(name: &str, status: &str) -> Arc<Pod> {
    Arc::new(object(&format!(
        "{{metadata: {{name: {name}, namespace: n, uid: pod-{name}, creationTimestamp: '2026-01-01T00:00:00Z'}}, status: \
         {{{status}}}}}"
    )))
}

/// A pod's status: it has a node and answers.
pub(crate) const READY: &str = "phase: Running, conditions: [{type: PodScheduled, status: 'True'}, {type: Ready, status: \
                                'True'}], containerStatuses: [{name: engine, image: i, imageID: i, ready: true, \
                                restartCount: 0, state: {running: {startedAt: '2026-01-01T00:00:02Z'}}}]";

/// An hour after everything was made.
pub(crate) fn later() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}
