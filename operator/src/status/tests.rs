//! Statuses by example.

mod fetch;

use std::{collections::BTreeMap, sync::Arc};

use ferrum_api::telemetry::{ModelCard, PhaseChange, phase_change::Phase};
use ferrum_crds::{FerrumModelStatus, names::ConditionReason as Reason};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};

use super::*;
use crate::{
    build::build,
    engines::EngineFacts,
    test_support::{READY, later, model, pod, validated},
};

const SPEC: &str = "model: 'hf://org/name', replicas: 2";

fn status_of(spec: &str, observed: &Observed, weights: Weights) -> FerrumModelStatus {
    let (model, validated) = (model(spec), validated(spec));
    let replicas = i32::try_from(validated.model.replicas()).expect("small");
    let prepared = build(&validated, replicas, weights);
    let applied = Resources {
        cache: prepared.cache,
        fetch: prepared.fetch,
        engines: prepared.engines,
        budget: prepared.budget,
        state: Applied {
            engines_generation: observed.deployment.as_ref().and(Some(2)),
        },
    };
    let wanted = Wanted {
        validated: &validated,
        replicas,
        leaving: 0,
        weights,
        autoscaling: None,
    };
    derive(&Inputs {
        model: &model,
        before: &FerrumModelStatus::default(),
        verdict: Verdict::Applied(wanted, &applied),
        observed,
        hints: &BTreeMap::new(),
        now: later(),
    })
}

fn told(status: &FerrumModelStatus, kind: &str) -> (String, String, String) {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .expect(kind);
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn with_engines(engines: Vec<Arc<k8s_openapi::api::core::v1::Pod>>) -> Observed {
    Observed {
        engines,
        ..Observed::default()
    }
}

#[test]
fn replicas_that_answer_are_counted_and_nothing_is_wrong() {
    let status = status_of(
        SPEC,
        &with_engines(vec![pod("a", READY), pod("b", READY)]),
        Weights::Ready,
    );
    assert_eq!(status.ready.as_deref(), Some("2/2"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(told(&status, "Ready").1, "AllReplicasReady");
    assert_eq!(told(&status, "Degraded").0, "False");
    assert_eq!(told(&status, "Progressing").1, "Settled");
    assert_eq!(
        status.selector.as_deref(),
        Some("app.kubernetes.io/component=engine,ferrum.dev/model=m")
    );
}

#[test]
fn replicas_of_before_a_change_do_not_settle_it() {
    for (seen, reason) in [("1", "RollingOut"), ("2", "Settled")] {
        let deployment = serde_json::json!({
            "metadata": {"generation": 2},
            "status": {"observedGeneration": seen.parse::<i64>().expect("a number"), "replicas": 2, "updatedReplicas": 2},
        });
        let deployment = serde_json::from_value(deployment).expect("a Deployment");
        let observed = Observed {
            deployment: Some(Arc::new(deployment)),
            ..with_engines(vec![pod("a", READY), pod("b", READY)])
        };
        let status = status_of(SPEC, &observed, Weights::Ready);
        assert_eq!(told(&status, "Progressing").1, reason);
    }
}

#[test]
fn a_pod_without_a_node_says_what_the_nodes_lack() {
    let cases = [
        (
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
            Reason::InsufficientGpu,
        ),
        (
            "0/2 nodes are available: 2 Insufficient memory. preemption: none.",
            Reason::InsufficientResources,
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            Reason::NoMatchingNode,
        ),
        (
            "pod has unbound immediate PersistentVolumeClaims.",
            Reason::ClaimPending,
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.",
            Reason::ClaimPending,
        ),
    ];
    for (message, reason) in cases {
        let status = format!(
            "conditions: [{{type: PodScheduled, status: 'False', reason: Unschedulable, lastTransitionTime: \
             '2026-01-01T00:00:00Z', message: \"{message}\"}}]"
        );
        let engine = pod("a", &status);
        let early = "2026-01-01T00:00:01Z".parse().expect("a time");
        assert_eq!(
            pods::placing_problem(&engine, early),
            None,
            "a scheduler needs a moment"
        );
        let status = status_of(SPEC, &with_engines(vec![engine]), Weights::Ready);
        for kind in ["Scheduled", "Ready", "Degraded"] {
            assert_eq!(told(&status, kind).1, reason.as_str(), "{kind}: {message}");
        }
        assert!(!told(&status, "Degraded").2.contains("preemption"));
    }
}

fn container(state: &str, last: &str, restarts: i32) -> String {
    format!(
        "conditions: [{{type: PodScheduled, status: 'True'}}], containerStatuses: [{{name: engine, image: i, imageID: i, \
         ready: false, restartCount: {restarts}, state: {{{state}}}, lastState: {{{last}}}}}]"
    )
}

#[test]
fn a_container_that_does_not_start_says_why() {
    check_starts([
        (
            container("waiting: {reason: ImagePullBackOff, message: not found}", "", 0),
            Some(Reason::ImagePullFailed),
        ),
        (
            container("waiting: {reason: ErrImagePull, message: not found}", "", 0),
            Some(Reason::ImagePullFailed),
        ),
        (
            container(
                "waiting: {reason: CreateContainerConfigError, message: no secret}",
                "",
                0,
            ),
            Some(Reason::ContainerConfigError),
        ),
        (container("waiting: {reason: ContainerCreating}", "", 0), None),
    ]);
}

#[test]
fn a_container_that_ended_says_why_unless_it_is_only_started_again() {
    check_starts([
        (
            container("running: {}", "terminated: {exitCode: 137, reason: OOMKilled}", 1),
            Some(Reason::OutOfMemory),
        ),
        (
            container(
                "waiting: {reason: CrashLoopBackOff}",
                "terminated: {exitCode: 1, message: '{\"reason\":\"TruncatedWeights\",\"message\":\"x\"}'}",
                1,
            ),
            Some(Reason::TruncatedWeights),
        ),
        (
            container(
                "running: {}",
                "terminated: {exitCode: 1, message: '{\"reason\":\"FromTheFuture\",\"message\":\"x\"}'}",
                1,
            ),
            Some(Reason::LaunchFailed),
        ),
        // A process that was killed once is only started again.
        (
            container("running: {}", "terminated: {exitCode: 137, reason: Error}", 1),
            None,
        ),
        (
            container(
                "waiting: {reason: CrashLoopBackOff}",
                "terminated: {exitCode: 101, message: 'thread panicked'}",
                3,
            ),
            Some(Reason::CrashLooping),
        ),
        (
            container(
                "waiting: {reason: CrashLoopBackOff}",
                "terminated: {exitCode: 137, startedAt: '2026-01-01T00:00:00Z', finishedAt: '2026-01-01T00:30:00Z'}",
                3,
            ),
            None,
        ),
    ]);
}

fn check_starts(cases: impl IntoIterator<Item = (String, Option<Reason>)>) {
    for (status, reason) in cases {
        let found = pods::starting_problem(&pod("a", &status));
        assert_eq!(found.as_ref().map(|problem| problem.reason), reason, "{status}");
        let told = told(
            &status_of(SPEC, &with_engines(vec![pod("a", &status)]), Weights::Ready),
            "Degraded",
        );
        assert_eq!(
            told.0,
            if reason.is_some() { "True" } else { "False" },
            "{status}"
        );
    }
}

fn facts(phase: Phase, done: u64, total: u64) -> EngineFacts {
    EngineFacts {
        phase: Some(PhaseChange {
            phase: phase.into(),
            done,
            total,
            ..PhaseChange::default()
        }),
        ..EngineFacts::default()
    }
}

#[test]
fn a_start_is_told_step_by_step() {
    let running = container("running: {startedAt: '2026-01-01T00:00:02Z'}", "", 0);
    let cases = [
        (
            facts(Phase::Fetching, 43, 100),
            "FetchingWeights",
            "weights: 43 % of 0.0 GB",
        ),
        (facts(Phase::Loading, 1, 4), "LoadingWeights", "loading: 25 %"),
        (
            facts(Phase::Warming, 0, 0),
            "WarmingUp",
            "the weights are loaded; the first token is being made",
        ),
    ];
    for (facts, reason, message) in cases {
        let mut observed = with_engines(vec![pod("a", &running)]);
        observed.facts.insert("a".to_owned(), facts);
        let status = status_of(SPEC, &observed, Weights::Ready);
        assert_eq!(
            told(&status, "Ready"),
            ("False".to_owned(), reason.to_owned(), message.to_owned())
        );
        assert_eq!(told(&status, "Degraded").0, "False");
    }
    let status = status_of(
        SPEC,
        &with_engines(vec![pod(
            "a",
            &container("waiting: {reason: ContainerCreating}", "", 0),
        )]),
        Weights::Ready,
    );
    assert_eq!(told(&status, "Loaded").1, "PullingImage");
}

#[test]
fn the_weights_and_the_split_of_the_start_are_told_once_known() {
    let at = |seconds: i64| {
        let made = "2026-01-01T00:00:00Z".parse::<Timestamp>().expect("a time");
        made + SignedDuration::from_secs(seconds)
    };
    let mut observed = with_engines(vec![pod(
        "a",
        &READY.replace(
            "{type: PodScheduled, status: 'True'}",
            "{type: PodScheduled, status: 'True', lastTransitionTime: '2026-01-01T00:00:01Z'}",
        ),
    )]);
    let since = vec![
        (Phase::Loading, at(10)),
        (Phase::Warming, at(14)),
        (Phase::Ready, at(15)),
    ];
    let card = ModelCard {
        architecture: "llama".to_owned(),
        num_blocks: 7,
        max_model_len: 2048,
        task: "chat".to_owned(),
        ..ModelCard::default()
    };
    observed.facts.insert(
        "a".to_owned(),
        EngineFacts {
            since,
            card: Some(card),
            ..facts(Phase::Ready, 0, 0)
        },
    );
    let status = status_of("model: 'hf://org/name'", &observed, Weights::Ready);
    let weights = status.weights.expect("weights");
    assert_eq!(
        (
            weights.architecture.as_deref(),
            weights.kv_blocks,
            status.task.as_deref()
        ),
        (Some("llama"), Some(7), Some("chat"))
    );
    let split = status.cold_start.expect("a split");
    let seconds = [
        split.schedule_seconds,
        split.pull_seconds,
        split.weights_seconds,
        split.load_seconds,
        split.warmup_seconds,
    ];
    assert_eq!(seconds, [1.0, 1.0, 8.0, 4.0, 1.0].map(Some));
}

#[test]
fn a_model_that_was_stopped_says_so_and_is_not_degraded() {
    let status = status_of(
        "model: 'hf://org/name', replicas: 0",
        &Observed::default(),
        Weights::Ready,
    );
    assert_eq!(told(&status, "Ready").1, "Stopped");
    assert_eq!(told(&status, "Degraded").0, "False");
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut inputs_before = status_of(SPEC, &Observed::default(), Weights::Ready);
    let early = Time("2026-01-01T00:00:00Z".parse().expect("a time"));
    inputs_before
        .conditions
        .iter_mut()
        .for_each(|condition| condition.last_transition_time = early.clone());
    let (model, observed) = (model(SPEC), with_engines(vec![pod("a", READY), pod("b", READY)]));
    let refusal = Refusal::new(Reason::InvalidSpec, "x");
    let status = derive(&Inputs {
        model: &model,
        before: &inputs_before,
        verdict: Verdict::Invalid(&refusal),
        observed: &observed,
        hints: &BTreeMap::new(),
        now: later(),
    });
    let time = |kind: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
        condition.expect(kind).last_transition_time.clone()
    };
    assert_eq!(time("WeightsCached"), early);
    assert_eq!(time("Accepted"), Time(later()));
}
