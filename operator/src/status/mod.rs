//! What a model's status says, derived from what was read; pure.

mod conditions;
mod facts;
pub(crate) mod fetch;
pub(crate) mod pods;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ferrum_crds::{AutoscalingStatus, FerrumModel, FerrumModelStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::{
    build::{Applied, Resources, Weights, engine_selector},
    dereference::Observed,
    validate::{Refusal, Validated},
};

/// How far a reconcile came.
pub(crate) enum Verdict<'a> {
    /// The object, or what it refers to, is not sound.
    Invalid(&'a Refusal),
    /// An object could not be applied.
    NotApplied(&'a Refusal, Wanted<'a>),
    /// Everything is in the cluster.
    Applied(Wanted<'a>, &'a Resources<Applied>),
}

/// What was asked of the cluster.
#[derive(Clone)]
pub(crate) struct Wanted<'a> {
    pub(crate) validated: &'a Validated,
    pub(crate) replicas: i32,
    /// Of those, replicas that go once they have finished.
    pub(crate) leaving: i32,
    pub(crate) weights: Weights,
    pub(crate) autoscaling: Option<AutoscalingStatus>,
}

/// Everything that a status is derived from.
pub(crate) struct Inputs<'a> {
    pub(crate) model: &'a FerrumModel,
    /// The status until now.
    pub(crate) before: &'a FerrumModelStatus,
    pub(crate) verdict: Verdict<'a>,
    pub(crate) observed: &'a Observed,
    /// What the cluster's events say of an object that does not get on, by its uid.
    pub(crate) hints: &'a BTreeMap<String, String>,
    pub(crate) now: Timestamp,
}

/// Derives the status.
pub(crate) fn derive(inputs: &Inputs<'_>) -> FerrumModelStatus {
    let Inputs {
        model,
        before,
        verdict,
        observed,
        hints: _,
        now: _,
    } = inputs;
    let counts = Counts::of(inputs);
    let wanted = match verdict {
        Verdict::Invalid(_) => None,
        Verdict::NotApplied(_, wanted) | Verdict::Applied(wanted, _) => Some(wanted),
    };
    let asked_task = model.spec.task.map(|task| task.as_str().to_owned());
    FerrumModelStatus {
        observed_generation: model.metadata.generation,
        replicas: Some(to_i32(counts.existing)),
        ready_replicas: Some(to_i32(counts.ready)),
        ready: Some(FerrumModelStatus::ready_text(
            counts.ready.min(counts.wanted),
            counts.wanted,
        )),
        selector: Some(engine_selector(&model.name_any())),
        task: asked_task
            .or_else(|| facts::task(observed))
            .or_else(|| before.task.clone()),
        conditions: conditions::derive(inputs, &counts),
        weights: facts::weights(observed).or_else(|| before.weights.clone()),
        cold_start: facts::cold_start(observed).or_else(|| before.cold_start.clone()),
        autoscaling: match wanted {
            Some(wanted) => wanted.autoscaling.clone(),
            None => before.autoscaling.clone(),
        },
    }
}

/// Engine pods, counted.
struct Counts {
    /// Replicas asked for.
    wanted: usize,
    /// Pods that are to stay.
    existing: usize,
    /// Of those, pods that answer.
    ready: usize,
    /// Of those, pods with a node.
    scheduled: usize,
}

impl Counts {
    fn of(inputs: &Inputs<'_>) -> Self {
        let pods = || inputs.observed.engines.iter().filter(|pod| pods::is_wanted(pod));
        let replicas = match &inputs.verdict {
            Verdict::Applied(_, applied) => Some(applied.replicas()),
            Verdict::NotApplied(_, wanted) => Some(wanted.replicas),
            Verdict::Invalid(_) => inputs
                .observed
                .deployment
                .as_ref()
                .and_then(|deployment| deployment.spec.as_ref()?.replicas),
        };
        Self {
            wanted: replicas
                .and_then(|replicas| usize::try_from(replicas).ok())
                .unwrap_or(0),
            existing: pods().count(),
            ready: pods().filter(|pod| pods::is_ready(pod)).count(),
            scheduled: pods().filter(|pod| pods::is_scheduled(pod)).count(),
        }
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
