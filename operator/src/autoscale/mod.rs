//! From what routers hold to a number of replicas: `demand` listens, `reports` adds up, `decide` decides (pure), `plan`
//! makes steps of it (pure).

mod decide;
#[cfg(test)]
mod decide_tests;
mod demand;
mod plan;
mod reports;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ferrum_crds::{Autoscaling, AutoscalingStatus, Scaling, names};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;

use self::{
    decide::{Bounds, Capacity, Decision, History, Load, Observation, Why},
    plan::{Fixed, Replica},
    reports::Demand,
};
pub(crate) use self::{
    demand::{Counted, Listener},
    plan::Plan,
    reports::{ModelKey, Reports},
};
use crate::{dereference::Observed, status::pods, validate::Validated};

/// What is remembered of one model.
#[derive(Default)]
pub(crate) struct Memory {
    history: History,
    marked: HashMap<String, Instant>,
}

/// How many replicas, what to do for it, and what to tell of it.
pub(crate) struct Scaled {
    pub(crate) plan: Plan,
    /// `None` for a model with a fixed number.
    pub(crate) status: Option<AutoscalingStatus>,
}

/// Decides for one model.
pub(crate) fn scale(
    validated: &Validated,
    observed: &Observed,
    before: Option<&AutoscalingStatus>,
    reports: &Reports,
    memory: &mut Memory,
) -> Scaled {
    let now = Instant::now();
    let key = (validated.namespace.clone(), validated.model.name().to_owned());
    let demand = reports.demand(&key, now);
    let replicas = replicas(observed, demand.as_ref());
    let current = observed
        .deployment
        .as_ref()
        .and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let autoscaling = match validated.model.scaling() {
        Scaling::Auto(autoscaling) => autoscaling,
        Scaling::Fixed(wanted) => {
            let fixed = Fixed {
                wanted: to_i32(wanted),
                drain_timeout: Duration::from_secs(validated.model.rollout().drain_timeout_seconds),
            };
            let plan = plan::plan_fixed(
                fixed,
                current.unwrap_or(fixed.wanted),
                &replicas,
                &mut memory.marked,
                now,
            );
            return Scaled { plan, status: None };
        }
    };
    let seen = Observation {
        now,
        current,
        idle: to_i32(replicas.iter().filter(|replica| replica.running == 0).count()),
        load: demand.as_ref().map(|demand| demand.load),
        capacity: capacity(validated, observed),
    };
    let decision = decide::decide(&bounds(&autoscaling), &seen, &mut memory.history);
    let plan = plan::plan(
        &decision,
        current.unwrap_or(decision.replicas),
        &replicas,
        &mut memory.marked,
        now,
    );
    let status = told(&decision, &plan, demand.map(|demand| demand.load), before);
    Scaled {
        plan,
        status: Some(status),
    }
}

fn replicas(observed: &Observed, demand: Option<&Demand>) -> Vec<Replica> {
    let stay = observed.engines.iter().filter(|pod| pods::is_wanted(pod));
    let replica = |pod: &std::sync::Arc<k8s_openapi::api::core::v1::Pod>| {
        let name = pod.name_any();
        Replica {
            is_ready: pods::is_ready(pod),
            is_marked: is_marked(pod),
            running: demand
                .and_then(|demand| demand.running.get(&name).copied())
                .unwrap_or(0),
            pod: name,
        }
    };
    stay.map(replica).collect()
}

fn is_marked(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    pod.annotations()
        .get(names::ANNOTATION_DRAINING)
        .is_some_and(|marked| marked == "true")
}

/// What one replica can have in flight: measured by the engine when it made its KV cache, else what the manifest says.
fn capacity(validated: &Validated, observed: &Observed) -> Capacity {
    let card = observed
        .facts
        .values()
        .filter_map(|facts| facts.card.as_ref())
        .next_back();
    let asked = u64::try_from(validated.model.launch_config().max_num_seqs).ok();
    Capacity {
        requests: card
            .map(|card| card.max_num_seqs)
            .filter(|&requests| requests > 0)
            .or(asked),
        tokens: card
            .map(|card| card.num_blocks.saturating_mul(card.block_size))
            .filter(|&tokens| tokens > 0),
    }
}

fn bounds(autoscaling: &Autoscaling) -> Bounds {
    Bounds {
        min: to_i32(autoscaling.min_replicas),
        max: to_i32(autoscaling.max_replicas),
        utilization: f64::from(autoscaling.utilization_percent) / 100.0,
        waiting_tokens: autoscaling.waiting_tokens.max(1),
        scale_down_delay: Duration::from_secs(autoscaling.scale_down_delay_seconds),
    }
}

/// The sentence is that of the last change of the number: counts in it would change with every message. While no router
/// can be heard, it says so.
fn told(
    decision: &Decision,
    plan: &Plan,
    load: Option<Load>,
    before: Option<&AutoscalingStatus>,
) -> AutoscalingStatus {
    let before = before.cloned().unwrap_or_default();
    let is_same_number = before.desired_replicas == Some(plan.replicas);
    let was_unknown = before.reason.as_deref() == Some(UNKNOWN);
    let is_same_reason = is_same_number && was_unknown == (decision.why == Why::Unknown);
    AutoscalingStatus {
        desired_replicas: Some(plan.replicas),
        reason: match before.reason {
            Some(reason) if is_same_reason => Some(reason),
            _ => Some(sentence(decision, load.unwrap_or_default())),
        },
        last_change: match before.last_change {
            Some(time) if is_same_number => Some(time),
            _ => Some(Time(Timestamp::now())),
        },
    }
}

const UNKNOWN: &str = "Unknown: no router can be reached; the number stays";

fn sentence(decision: &Decision, load: Load) -> String {
    let Load {
        held_requests,
        held_tokens,
        running_requests,
        running_tokens,
        requests_total: _,
    } = load;
    let counts = format!(
        "{running_requests} requests ({running_tokens} tokens) run, {held_requests} ({held_tokens} tokens) wait"
    );
    let needed = decision.needed;
    match decision.why {
        Why::Bounds if held_requests + running_requests == 0 => {
            format!("Bounds: nobody asks, {needed} is the minimum")
        }
        Why::Bounds => format!("Bounds: {counts}; minReplicas and maxReplicas allow {needed}"),
        Why::Held => format!("Held: {counts}, and no replica runs"),
        Why::Busy => format!("Busy: {counts}; {needed} replicas carry that within the target utilization"),
        Why::Waiting => format!("Waiting: {counts}; {needed} replicas keep to target.waitingTokens"),
        Why::Cooling => {
            format!("Cooling: {counts}; {needed} would do, but not yet for scaleDownDelaySeconds")
        }
        Why::Draining => format!("Draining: {counts}; {needed} would do, no replica is idle yet"),
        Why::Idle => format!("Idle: {counts}; {needed} have done for scaleDownDelaySeconds"),
        Why::Unknown => UNKNOWN.to_owned(),
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
