//! What to do next, from what should run and what runs. Pure: no clock, no processes.
//!
//! The supervisor asks after every change and carries the answer out; it keeps no list of things to do. A rollout is
//! therefore not a procedure but what follows from asking again: a new replica starts beside the old ones, and an old
//! one goes as soon as one more is ready than was asked for.

use std::collections::HashSet;

use ferrum_crds::ValidatedModel;
use ferrum_engine::LaunchConfig;

/// A replica that exists.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// Its name, unique.
    pub(crate) id: String,
    /// Name of its model.
    pub(crate) model: String,
    /// How it was launched.
    pub(crate) launch: LaunchConfig,
    /// What it does.
    pub(crate) state: State,
}

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Finishes what it has and ends.
    Draining,
    /// Could not start; is tried again later.
    Failed,
    /// Answers.
    Ready,
    /// Will answer.
    Starting,
}

/// A thing to do, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Choose it no more, let it finish, end it.
    Drain {
        /// The replica.
        id: String,
        /// For people.
        reason: String,
    },
    /// Launch a replica.
    Start {
        /// Its name.
        id: String,
        /// Name of its model.
        model: String,
        /// How.
        launch: LaunchConfig,
        /// For people.
        reason: String,
    },
}

/// The next actions; none when everything is as it should be or must first be waited for.
pub(crate) fn plan(desired: &[ValidatedModel], running: &[Running]) -> Vec<Action> {
    let is_desired = |name: &str| desired.iter().any(|model| model.name() == name);
    let removed = running
        .iter()
        .filter(|replica| replica.state != State::Draining && !is_desired(&replica.model));
    let mut actions: Vec<_> = removed
        .map(|replica| drain(replica, "its model is not in the manifests any more"))
        .collect();
    for model in desired {
        plan_model(model, running, &mut actions);
    }
    actions
}

/// The settings that differ, such as `max-num-seqs 32 -> 16`.
pub(crate) fn describe_change(old: &LaunchConfig, new: &LaunchConfig) -> String {
    let (old_args, new_args) = (old.to_args(), new.to_args());
    let split = |arg: &String| match arg.trim_start_matches("--").split_once('=') {
        Some((flag, value)) if arg.starts_with("--") => (flag.to_owned(), value.to_owned()),
        _ if arg.starts_with("--") => (arg.trim_start_matches("--").to_owned(), "set".to_owned()),
        _ => ("model".to_owned(), arg.clone()),
    };
    let values = |args: &[String], flag: &str| {
        let all: Vec<_> = args
            .iter()
            .map(split)
            .filter(|(name, _)| name == flag)
            .map(|(_, value)| value)
            .collect();
        if all.is_empty() {
            "unset".to_owned()
        } else {
            all.join(",")
        }
    };
    let mut told = HashSet::new();
    let flags = old_args
        .iter()
        .chain(&new_args)
        .map(|arg| split(arg).0)
        .filter(|flag| told.insert(flag.clone()));
    let changes = flags.filter_map(|flag| {
        let (old, new) = (values(&old_args, &flag), values(&new_args, &flag));
        (old != new).then(|| format!("{flag} {old} -> {new}"))
    });
    changes.collect::<Vec<_>>().join(", ")
}

fn plan_model(model: &ValidatedModel, running: &[Running], actions: &mut Vec<Action>) {
    let launch = model.launch_config();
    let own = || {
        running
            .iter()
            .filter(|replica| replica.model == model.name() && replica.state != State::Draining)
    };
    let (current, outdated): (Vec<_>, Vec<_>) = own().partition(|replica| replica.launch == launch);
    // An old replica that does not answer holds nothing up; one that answers stays until another does.
    let (old_ready, old_idle): (Vec<_>, Vec<_>) =
        outdated.into_iter().partition(|old| old.state == State::Ready);
    for replica in &old_idle {
        actions.push(drain(replica, &describe_change(&replica.launch, &launch)));
    }
    let wanted = model.replicas();
    let ready = current
        .iter()
        .filter(|replica| replica.state == State::Ready)
        .count();
    let surplus = (ready + old_ready.len())
        .saturating_sub(wanted)
        .min(old_ready.len());
    for replica in &old_ready[..surplus] {
        actions.push(drain(replica, &describe_change(&replica.launch, &launch)));
    }
    let kept_old = old_ready.len() - surplus;
    let room = if kept_old == 0 {
        wanted
    } else {
        (wanted + model.rollout().max_surge)
            .saturating_sub(kept_old)
            .min(wanted)
    };
    let reason = match old_ready.first() {
        Some(old) => format!("replaces {}: {}", old.id, describe_change(&old.launch, &launch)),
        None => format!("{wanted} wanted, {} there", current.len()),
    };
    let taken: HashSet<&str> = running.iter().map(|replica| replica.id.as_str()).collect();
    let free_ids: Vec<_> = (0..)
        .map(|index| format!("{}-{index}", model.name()))
        .filter(|id| !taken.contains(id.as_str()))
        .take(room.saturating_sub(current.len()))
        .collect();
    for id in free_ids {
        let (model, launch, reason) = (model.name().to_owned(), launch.clone(), reason.clone());
        actions.push(Action::Start {
            id,
            model,
            launch,
            reason,
        });
    }
    for replica in excess(current, wanted) {
        actions.push(drain(replica, &format!("{wanted} wanted")));
    }
}

/// Replicas beyond `wanted`: those that serve least go first, then the youngest.
fn excess(mut current: Vec<&Running>, wanted: usize) -> Vec<&Running> {
    let usefulness = |replica: &Running| match replica.state {
        State::Ready => 2,
        State::Starting => 1,
        State::Draining | State::Failed => 0,
    };
    current.sort_by_key(|replica| std::cmp::Reverse(usefulness(replica)));
    current.split_off(wanted.min(current.len()))
}

fn drain(replica: &Running, reason: &str) -> Action {
    Action::Drain {
        id: replica.id.clone(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
