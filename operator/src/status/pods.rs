//! What is wrong with pods and jobs, in words that stay the same.

use ferrum_crds::names::{self, ConditionReason as Reason};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition},
    },
    jiff::{SignedDuration, Timestamp},
};
use serde::Deserialize;

use crate::validate::Refusal;

/// A scheduler may need a moment, for example until a pod that goes has given its node back.
const UNSCHEDULABLE_AFTER: SignedDuration = SignedDuration::from_secs(3);
/// An engine that ran for so long and then ended did not fail to start.
const QUICK_END: SignedDuration = SignedDuration::from_secs(60);

/// Whether the pod answers.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod is to stay.
pub(crate) fn is_wanted(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether the pod has a node.
pub(crate) fn is_scheduled(pod: &Pod) -> bool {
    condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled.status == "True")
}

/// When the condition `kind` became what it is.
pub(crate) fn since(pod: &Pod, kind: &str) -> Option<Timestamp> {
    condition(pod, kind)?
        .last_transition_time
        .as_ref()
        .map(|time| time.0)
}

/// The state of its only container.
pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// Why the pod has no node.
pub(crate) fn placing_problem(pod: &Pod, now: Timestamp) -> Option<Refusal> {
    let scheduled = condition(pod, "PodScheduled")?;
    if scheduled.status != "False" || scheduled.reason.as_deref() != Some("Unschedulable") {
        return None;
    }
    let since = scheduled.last_transition_time.as_ref()?.0;
    if now.duration_since(since) < UNSCHEDULABLE_AFTER {
        return None;
    }
    // What follows is about preemption, which nobody asked for.
    let message = scheduled.message.as_deref().unwrap_or_default();
    let message = message.split(". ").next().unwrap_or(message);
    let reason = unschedulable(message);
    Some(Refusal::new(reason, advise(reason, message)))
}

/// Why the pod's container does not run, or does not get ready.
pub(crate) fn starting_problem(pod: &Pod) -> Option<Refusal> {
    let container = container(pod)?;
    if container.ready {
        return None;
    }
    let state = container.state.as_ref()?;
    if let Some(problem) = waiting_problem(state) {
        return Some(problem);
    }
    let ended = state
        .terminated
        .as_ref()
        .or_else(|| container.last_state.as_ref()?.terminated.as_ref())?;
    ended_problem(ended, container.restart_count)
}

/// Why the pods of a Deployment cannot even be made.
pub(crate) fn creation_problem(deployment: &Deployment) -> Option<Refusal> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    Some(refused_pod(failure.message.as_deref().unwrap_or_default()))
}

/// Why the API server refuses a pod, by what it says.
pub(crate) fn refused_pod(message: &str) -> Refusal {
    let reason = match message {
        _ if message.contains("exceeded quota") || message.contains("failed quota") => Reason::QuotaExceeded,
        _ if message.contains("violates PodSecurity") => Reason::PodSecurityViolation,
        _ if message.contains("PriorityClass") => Reason::PriorityClassNotFound,
        _ if message.contains("RuntimeClass") => Reason::RuntimeClassNotFound,
        _ => Reason::ObjectRefused,
    };
    Refusal::new(reason, advise(reason, message))
}

/// What the cluster says, and what to do about it.
pub(crate) fn advise(reason: Reason, message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    if message.is_empty() {
        return reason.meaning().to_owned();
    }
    // The meaning of a reason ends in its advice, behind the first semicolon or sentence.
    let meaning = reason.meaning();
    match meaning.split_once("; ").or_else(|| meaning.split_once(". ")) {
        Some((_, advice)) => format!("{message}. To do: {advice}"),
        None => message.to_owned(),
    }
}

fn unschedulable(message: &str) -> Reason {
    if message.contains(&format!("Insufficient {}", names::RESOURCE_NVIDIA_GPU)) {
        return Reason::InsufficientGpu;
    }
    let lower = message.to_lowercase();
    let is_claim = lower.contains("persistentvolumeclaim") || lower.contains("persistent volume");
    if is_claim {
        return Reason::ClaimPending;
    }
    if message.contains("Insufficient ") || message.contains("Too many pods") {
        return Reason::InsufficientResources;
    }
    Reason::NoMatchingNode
}

fn waiting_problem(state: &ContainerState) -> Option<Refusal> {
    let waiting = state.waiting.as_ref()?;
    let reason = match waiting.reason.as_deref()? {
        "ErrImageNeverPull"
        | "ErrImagePull"
        | "ImageInspectError"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "RegistryUnavailable" => Reason::ImagePullFailed,
        "CreateContainerConfigError" => Reason::ContainerConfigError,
        "CreateContainerError" | "RunContainerError" | "StartError" => Reason::LaunchFailed,
        _ => return None,
    };
    Some(Refusal::new(
        reason,
        advise(reason, waiting.message.as_deref().unwrap_or_default()),
    ))
}

/// What a program writes when it cannot start.
#[derive(Deserialize)]
struct TerminationLog {
    reason: String,
    message: String,
}

fn ended_problem(ended: &ContainerStateTerminated, restarts: i32) -> Option<Refusal> {
    let text = ended.message.as_deref().unwrap_or_default().trim();
    if let Ok(told) = serde_json::from_str::<TerminationLog>(text) {
        // A word of another release is told, not lost.
        return Some(match told.reason.parse() {
            Ok(reason) => Refusal::new(reason, advise(reason, &in_a_line(&told.message))),
            Err(_) => Refusal::new(Reason::LaunchFailed, format!("{}: {}", told.reason, told.message)),
        });
    }
    if ended.reason.as_deref() == Some("OOMKilled") {
        return Some(Refusal::new(Reason::OutOfMemory, Reason::OutOfMemory.meaning()));
    }
    let ran = match (&ended.started_at, &ended.finished_at) {
        (Some(started), Some(finished)) => finished.0.duration_since(started.0),
        _ => SignedDuration::ZERO,
    };
    if restarts < 2 || ran >= QUICK_END {
        return None;
    }
    let last = text.lines().rev().take(5).collect::<Vec<_>>();
    let said: Vec<_> = last.into_iter().rev().collect();
    let message = format!(
        "the container ended {restarts} times, last with exit code {}: {}",
        ended.exit_code,
        said.join(" / ")
    );
    Some(Refusal::new(Reason::CrashLooping, message))
}

/// What a program told, without its advice: that is for a person at a terminal.
fn in_a_line(told: &str) -> String {
    let told = told.split("\n  help: ").next().unwrap_or(told);
    told.replace("\n  caused by: ", ": ")
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::object;

    #[test]
    fn pods_that_may_not_be_made_say_who_forbids_it() {
        let cases = [
            ("exceeded quota: q, requested: pods=1", Reason::QuotaExceeded),
            (
                "violates PodSecurity restricted: hostPath volumes",
                Reason::PodSecurityViolation,
            ),
            (
                "no PriorityClass with name x was found",
                Reason::PriorityClassNotFound,
            ),
            (
                "pod rejected: RuntimeClass x not found",
                Reason::RuntimeClassNotFound,
            ),
            ("admission webhook denied the request", Reason::ObjectRefused),
        ];
        for (message, reason) in cases {
            let deployment: Deployment = object(&format!(
                "status: {{conditions: [{{type: ReplicaFailure, status: 'True', message: '{message}'}}]}}"
            ));
            assert_eq!(creation_problem(&deployment).expect(message).reason, reason);
        }
    }

    #[test]
    fn a_message_ends_in_what_to_do() {
        let told = advise(Reason::ContainerConfigError, "secret \"a\" not found.");
        assert_eq!(told, "secret \"a\" not found. To do: create it.");
        assert_eq!(advise(Reason::OutOfMemory, ""), Reason::OutOfMemory.meaning());
    }

    #[test]
    fn what_a_program_told_becomes_one_line_without_advice_for_a_terminal() {
        let told = "cannot load m\n  caused by: a.safetensors: too short\n  help: run the command again";
        assert_eq!(in_a_line(told), "cannot load m: a.safetensors: too short");
    }
}
