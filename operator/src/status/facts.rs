//! What engines told, for the status: what the weights are, how far a start is, where its time went.

use ferrum_api::telemetry::phase_change::Phase;
use ferrum_crds::{ColdStartStatus, WeightsStatus, names::ConditionReason as Reason};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::ResourceExt as _;

use super::pods;
use crate::{dereference::Observed, engines::EngineFacts, validate::Refusal};

/// What the weights turned out to be, by the newest replica that loaded them.
pub(super) fn weights(observed: &Observed) -> Option<WeightsStatus> {
    let card = observed
        .engines
        .iter()
        .rev()
        .find_map(|pod| observed.facts.get(&pod.name_any())?.card.as_ref())?;
    Some(WeightsStatus {
        architecture: Some(card.architecture.clone()),
        context_length: i64::try_from(card.max_model_len).ok(),
        dtype: Some(card.weights.clone()),
        kv_blocks: i64::try_from(card.num_blocks).ok(),
        parameters: i64::try_from(card.num_parameters).ok(),
    })
}

/// The task that the weights are for.
pub(super) fn task(observed: &Observed) -> Option<String> {
    let cards = observed.facts.values().filter_map(|facts| facts.card.as_ref());
    cards.map(|card| card.task.clone()).next()
}

/// Where the time of the newest start went that was followed from its beginning.
pub(super) fn cold_start(observed: &Observed) -> Option<ColdStartStatus> {
    let starts = observed.engines.iter().filter_map(|pod| {
        let facts = observed.facts.get(&pod.name_any())?;
        Some((entered(facts, Phase::Ready)?, cold_start_of(pod, facts)?))
    });
    starts.max_by_key(|(ready, _)| *ready).map(|(_, split)| split)
}

fn cold_start_of(pod: &Pod, facts: &EngineFacts) -> Option<ColdStartStatus> {
    let created = pod.creation_timestamp()?.0;
    let scheduled = pods::since(pod, "PodScheduled")?;
    let started = pods::container(pod)?
        .state
        .as_ref()?
        .running
        .as_ref()?
        .started_at
        .as_ref()?
        .0;
    // An engine that was ready before it was followed tells nothing of its way there.
    let loading = entered(facts, Phase::Loading)?;
    let warming = entered(facts, Phase::Warming)?;
    let ready = entered(facts, Phase::Ready)?;
    Some(ColdStartStatus {
        schedule_seconds: Some(seconds(created, scheduled)),
        pull_seconds: Some(seconds(scheduled, started)),
        weights_seconds: Some(seconds(started, loading)),
        load_seconds: Some(seconds(loading, warming)),
        warmup_seconds: Some(seconds(warming, ready)),
    })
}

/// How far the start is that is the furthest.
pub(super) fn progress(observed: &Observed) -> Option<Refusal> {
    let wanted = || observed.engines.iter().filter(|pod| pods::is_wanted(pod));
    let told = wanted().filter_map(|pod| observed.facts.get(&pod.name_any())?.phase.as_ref());
    let furthest = told.max_by_key(|change| change.phase() as i32);
    if let Some(change) = furthest {
        let told = match change.phase() {
            Phase::Fetching => Refusal::new(
                Reason::FetchingWeights,
                format!("weights: {}", share(change.done, change.total)),
            ),
            Phase::Loading if change.total > 0 => Refusal::new(
                Reason::LoadingWeights,
                format!("loading: {} %", percent(change.done, change.total)),
            ),
            Phase::Loading => Refusal::new(Reason::LoadingWeights, "loading"),
            Phase::Warming => Refusal::new(
                Reason::WarmingUp,
                "the weights are loaded; the first token is being made",
            ),
            Phase::Ready => Refusal::new(Reason::WarmingUp, "the engine is ready; its pod is not yet"),
            _ => Refusal::new(Reason::Starting, "the engine starts"),
        };
        return Some(told);
    }
    let pulling = wanted().filter(|pod| pods::is_scheduled(pod)).any(|pod| {
        pods::container(pod).is_none_or(|container| {
            container
                .state
                .as_ref()
                .is_none_or(|state| state.running.is_none() && state.terminated.is_none())
        })
    });
    pulling.then(|| {
        Refusal::new(
            Reason::PullingImage,
            "the node pulls the image and makes the container",
        )
    })
}

/// How far the job is that fetches the weights into a cache.
pub(super) fn fetch_progress(observed: &Observed) -> Option<String> {
    let running = observed.fetchers.iter().rev().filter(|pod| pods::is_wanted(pod));
    let told = running.filter_map(|pod| observed.facts.get(&pod.name_any())?.phase.as_ref());
    let mut fetching = told.filter(|change| change.phase() == Phase::Fetching);
    fetching
        .next()
        .map(|change| format!("weights: {}", share(change.done, change.total)))
}

/// `43 % of 8.1 GB`.
fn share(done: u64, total: u64) -> String {
    if total == 0 {
        return format!("{:.1} GB so far", done as f64 / 1e9);
    }
    format!("{} % of {:.1} GB", percent(done, total), total as f64 / 1e9)
}

/// `135M`, `8.0B`.
pub(super) fn in_short(count: i64) -> String {
    match count {
        ..=999_999 => count.to_string(),
        1_000_000..=999_999_999 => format!("{:.0}M", count as f64 / 1e6),
        _ => format!("{:.1}B", count as f64 / 1e9),
    }
}

fn percent(done: u64, total: u64) -> u64 {
    done.saturating_mul(100) / total.max(1)
}

fn entered(facts: &EngineFacts, phase: Phase) -> Option<Timestamp> {
    facts
        .since
        .iter()
        .find(|(seen, _)| *seen == phase)
        .map(|&(_, at)| at)
}

/// To a tenth: a status is read by people.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    let seconds = to.duration_since(from).as_secs_f64().max(0.0);
    (seconds * 10.0).round() / 10.0
}
