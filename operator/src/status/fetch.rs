//! Where the weights of a cache are, and what keeps them from coming.

use ferrum_crds::names::ConditionReason as Reason;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};

use super::{Inputs, pods};
use crate::validate::Refusal;

/// Whether a job has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobEnd {
    Complete,
    Failed,
    Running,
}

/// How `job` stands.
pub(crate) fn job_end(job: &Job) -> JobEnd {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let has = |kind: &str| {
        conditions.is_some_and(|all| {
            all.iter()
                .any(|condition| condition.type_ == kind && condition.status == "True")
        })
    };
    match () {
        () if has("Complete") => JobEnd::Complete,
        () if has("Failed") => JobEnd::Failed,
        () => JobEnd::Running,
    }
}

/// What keeps the weights from coming; `None` while all is well.
pub(super) fn problem(inputs: &Inputs<'_>) -> Option<Refusal> {
    claim_problem(inputs).or_else(|| {
        let fetchers = &inputs.observed.fetchers;
        let newest = fetchers
            .iter()
            .rev()
            .find(|pod| pod.metadata.deletion_timestamp.is_none());
        match newest {
            Some(pod) => {
                fetcher_problem(pod, inputs.now).or_else(|| hint_of(inputs, pod.metadata.uid.as_deref()))
            }
            None => inputs.observed.jobs.iter().find_map(|job| {
                let uid = job.metadata.uid.as_deref()?;
                inputs.hints.get(uid).map(|message| pods::refused_pod(message))
            }),
        }
    })
}

fn claim_problem(inputs: &Inputs<'_>) -> Option<Refusal> {
    let claim = inputs.observed.cache.as_ref()?;
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
        return None;
    }
    let message = inputs.hints.get(claim.metadata.uid.as_deref()?)?;
    let reason = match message {
        _ if message.contains("storageclass") && message.contains("not found") => {
            Reason::StorageClassNotFound
        }
        _ => Reason::ClaimPending,
    };
    Some(Refusal::new(reason, pods::advise(reason, message)))
}

fn fetcher_problem(pod: &Pod, now: Timestamp) -> Option<Refusal> {
    let problem = pods::placing_problem(pod, now).or_else(|| pods::starting_problem(pod))?;
    Some(match problem.reason {
        Reason::CrashLooping | Reason::LaunchFailed => Refusal::new(Reason::FetchFailed, problem.message),
        _ => problem,
    })
}

fn hint_of(inputs: &Inputs<'_>, uid: Option<&str>) -> Option<Refusal> {
    let message = inputs.hints.get(uid?)?;
    Some(Refusal::new(Reason::FetchFailed, message.clone()))
}
