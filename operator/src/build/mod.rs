//! From a validated model to the objects that serve it: pure, one file a kind.

mod budget;
mod cache;
mod deployment;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ferrum_crds::names;
use k8s_openapi::{
    api::{
        apps::v1::Deployment, batch::v1::Job, core::v1::PersistentVolumeClaim,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::validate::Validated;

pub(crate) use self::cache::fetch_job_name;

/// Objects that are built and not yet in the cluster.
pub(crate) struct Prepared;
/// Objects that are in the cluster as they were built.
pub(crate) struct Applied {
    /// Generation of the Deployment; `None` where it was left as it is.
    pub(crate) engines_generation: Option<i64>,
}

/// Every object of a model.
pub(crate) struct Resources<State> {
    /// The volume for its weights.
    pub(crate) cache: Option<PersistentVolumeClaim>,
    /// The job that brings the weights.
    pub(crate) fetch: Option<Job>,
    /// Its engines.
    pub(crate) engines: Engines,
    /// How many of them a drain may take at once.
    pub(crate) budget: Option<PodDisruptionBudget>,
    pub(crate) state: State,
}

/// What happens to the engines.
pub(crate) enum Engines {
    /// They become this.
    Run(Box<Deployment>),
    /// The weights of a change are not there yet: those that run stay as they are, only their number changes.
    KeepWith {
        /// Replicas.
        replicas: i32,
    },
}

/// Where the weights of a model with a cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Engines can read them, or get them themselves.
    Ready,
    /// A job fetches them.
    Awaited,
}

/// Builds everything of a model that should have `replicas`.
pub(crate) fn build(validated: &Validated, replicas: i32, weights: Weights) -> Resources<Prepared> {
    Resources {
        cache: cache::build_claim(validated),
        fetch: cache::build_fetch_job(validated),
        engines: match weights {
            Weights::Ready => Engines::Run(Box::new(deployment::build_deployment(validated, replicas))),
            Weights::Awaited => Engines::KeepWith { replicas },
        },
        budget: budget::build_budget(validated),
        state: Prepared,
    }
}

impl Resources<Applied> {
    /// Engines that were asked for.
    pub(crate) fn replicas(&self) -> i32 {
        match &self.engines {
            Engines::Run(deployment) => deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1),
            Engines::KeepWith { replicas } => *replicas,
        }
    }
}

/// Labels of every object of a model; those of its Deployment's selector are a part of them.
fn labels(validated: &Validated, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(validated, component);
    labels.insert(names::LABEL_NAME.to_owned(), names::MANAGED_BY.to_owned());
    labels.insert(names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned());
    labels
}

/// Never changes: a Deployment's selector cannot.
fn selector(validated: &Validated, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::LABEL_COMPONENT.to_owned(), component.to_owned()),
        (names::LABEL_MODEL.to_owned(), validated.model.name().to_owned()),
    ])
}

/// The label selector of a model's engines, as a text.
pub(crate) fn engine_selector(model: &str) -> String {
    format!(
        "{}={},{}={model}",
        names::LABEL_COMPONENT,
        names::COMPONENT_ENGINE,
        names::LABEL_MODEL
    )
}

fn metadata(validated: &Validated, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        labels: Some(labels(validated, component)),
        name: Some(name),
        namespace: Some(validated.namespace.clone()),
        owner_references: Some(vec![validated.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The first 10 hexadecimal digits of a hash of `value`.
pub(crate) fn short_hash(value: &impl Serialize) -> String {
    // What is hashed here are strings and lists of them, which always have a JSON form.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(text)
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
