//! What the router reads of the cluster's objects. Pure, and lenient: an object of a newer version must not end the
//! watch of all others.

use std::net::IpAddr;

use ferrum_crds::names::{self, ConditionReason};
use ferrum_engine::Task;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::DynamicObject;
use serde_json::Value;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// An object and what it says; `None` when it counts as gone.
pub(super) type Read<T> = (Key, Option<T>);

/// A FerrumModel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelFacts {
    pub(super) created_seconds: i64,
    pub(super) served_names: Vec<String>,
    pub(super) task: Task,
    /// Why it cannot be served.
    pub(super) message: Option<String>,
    /// Where it stands on the way to its first replica.
    pub(super) phase: Option<String>,
}

/// An engine pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) uid: String,
    pub(super) created_seconds: i64,
    /// Name of the FerrumModel, in the same namespace.
    pub(super) model: String,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) is_draining: bool,
}

/// A FerrumModel that is being deleted is gone: what it made goes with it.
pub(super) fn read_model(object: &DynamicObject) -> Read<ModelFacts> {
    let key = key(&object.metadata);
    if object.metadata.deletion_timestamp.is_some() {
        return (key, None);
    }
    let spec = &object.data["spec"];
    let given: Vec<_> = spec["servedNames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let task = spec["task"].as_str().and_then(|word| word.parse().ok());
    let conditions = Conditions::of(object);
    let facts = ModelFacts {
        created_seconds: created_seconds(&object.metadata),
        served_names: if given.is_empty() {
            vec![key.name.clone()]
        } else {
            given
        },
        // What the weights turn out to be is told by the engine's card.
        task: task.unwrap_or(Task::Chat),
        message: conditions.failure(),
        phase: stopped(spec).or_else(|| conditions.phase()),
    };
    (key, Some(facts))
}

/// A pod that has no address yet, or no running container any more, is no replica.
pub(super) fn read_pod(pod: &Pod) -> Read<PodFacts> {
    let key = key(&pod.metadata);
    let label = pod.metadata.labels.as_ref();
    let model = label.and_then(|labels| labels.get(names::LABEL_MODEL));
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let address = status.and_then(|status| status.pod_ip.as_deref()?.parse().ok());
    let (Some(model), Some(address)) = (model, address) else {
        return (key, None);
    };
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return (key, None);
    }
    let facts = PodFacts {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        created_seconds: created_seconds(&pod.metadata),
        model: model.clone(),
        address,
        port: port(pod),
        is_draining: pod.metadata.deletion_timestamp.is_some() || is_marked(&pod.metadata),
    };
    (key, Some(facts))
}

/// Whether the operator has told that the pod is to go once it runs nothing.
fn is_marked(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(names::ANNOTATION_DRAINING))
        .is_some_and(|marked| marked == "true")
}

fn key(metadata: &ObjectMeta) -> Key {
    Key {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

fn created_seconds(metadata: &ObjectMeta) -> i64 {
    let created = metadata.creation_timestamp.as_ref();
    created.map_or(i64::MAX, |time| time.0.as_second())
}

/// The port with the engine's name; a pod without one has the usual.
fn port(pod: &Pod) -> u16 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some(names::ENGINE_PORT_NAME));
    named
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(names::ENGINE_PORT)
}

fn stopped(spec: &Value) -> Option<String> {
    let is_stopped = spec["replicas"] == 0 && spec["autoscaling"].is_null();
    is_stopped.then(|| "stopped: spec.replicas is 0".to_owned())
}

/// The conditions of a status that is about the present spec.
struct Conditions<'a>(&'a [Value]);

impl<'a> Conditions<'a> {
    fn of(object: &'a DynamicObject) -> Self {
        let status = &object.data["status"];
        let observed = status["observedGeneration"].as_i64();
        let is_current = observed.is_none() || observed >= object.metadata.generation;
        let conditions = status["conditions"].as_array().filter(|_| is_current);
        Self(conditions.map_or(&[], Vec::as_slice))
    }

    /// Status and words of a condition.
    fn find(&self, kind: &'static str) -> Option<(&'a str, &'a str)> {
        let condition = self.0.iter().find(|condition| condition["type"] == kind)?;
        let text = |field: &str| condition[field].as_str().filter(|text| !text.is_empty());
        let words = text("message").or_else(|| text("reason")).unwrap_or(kind);
        Some((condition["status"].as_str()?, words))
    }

    /// Why requests are refused at once; what may pass by itself is a phase.
    fn failure(&self) -> Option<String> {
        [("Accepted", "False"), ("Degraded", "True")]
            .into_iter()
            .find_map(|(kind, bad)| {
                let (status, words) = self.find(kind)?;
                (status == bad && !self.may_heal(kind)).then(|| words.to_owned())
            })
    }

    fn may_heal(&self, kind: &str) -> bool {
        self.reason(kind).is_some_and(ConditionReason::may_heal)
    }

    /// `None` also for a word of another release.
    fn reason(&self, kind: &str) -> Option<ConditionReason> {
        let condition = self.0.iter().find(|condition| condition["type"] == kind)?;
        condition["reason"].as_str()?.parse().ok()
    }

    /// The first step that is not done, in the order in which they are taken.
    fn phase(&self) -> Option<String> {
        let step = |(kind, word): (&'static str, &str)| {
            let (status, words) = self.find(kind)?;
            // Without a cache there is no such step: engines tell themselves how far they are.
            if self.reason(kind) == Some(ConditionReason::NoCache) {
                return None;
            }
            let is_named = words.starts_with(&format!("{word}:"));
            (status == "False").then(|| {
                if is_named {
                    words.to_owned()
                } else {
                    format!("{word}: {words}")
                }
            })
        };
        let steps = [
            ("WeightsCached", "weights"),
            ("Scheduled", "schedule"),
            ("Loaded", "load"),
        ];
        steps.into_iter().find_map(step).or_else(|| {
            let (status, words) = self.find("Progressing")?;
            (status == "True").then(|| words.to_owned())
        })
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
