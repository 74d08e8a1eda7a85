//! The seven conditions.

use ferrum_crds::{
    ModelSource,
    names::{ConditionReason as Reason, ConditionType as Type},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Counts, Inputs, Verdict, Wanted, facts, fetch, pods};
use crate::{
    build::{Weights, fetch_job_name},
    validate::Refusal,
};

/// A condition without its times.
struct Told {
    is_true: bool,
    what: Refusal,
}

/// Derives all conditions, each with the time of its last change.
pub(super) fn derive(inputs: &Inputs<'_>, counts: &Counts) -> Vec<Condition> {
    let problems = Problems::find(inputs);
    let all = [
        (Type::Accepted, accepted(inputs)),
        (Type::WeightsCached, weights_cached(inputs, &problems)),
        (Type::Scheduled, scheduled(counts, &problems)),
        (Type::Loaded, loaded(inputs, counts, &problems)),
        (Type::Ready, ready(inputs, counts, &problems)),
        (Type::Progressing, progressing(inputs, counts)),
        (Type::Degraded, degraded(&problems)),
    ];
    all.into_iter()
        .map(|(kind, told)| to_condition(inputs, kind, told))
        .collect()
}

/// What needs a person, by the step that it stops.
struct Problems {
    object: Option<Refusal>,
    weights: Option<Refusal>,
    placing: Option<Refusal>,
    starting: Option<Refusal>,
}

impl Problems {
    fn find(inputs: &Inputs<'_>) -> Self {
        let wanted = || inputs.observed.engines.iter().filter(|pod| pods::is_wanted(pod));
        let object = match &inputs.verdict {
            Verdict::Invalid(refusal) | Verdict::NotApplied(refusal, _) => Some((*refusal).clone()),
            Verdict::Applied(..) => None,
        };
        let deployment = inputs.observed.deployment.as_deref();
        let is_awaited = wanted_of(inputs).is_some_and(|wanted| wanted.weights == Weights::Awaited);
        Self {
            object,
            weights: if is_awaited { fetch::problem(inputs) } else { None },
            placing: deployment
                .and_then(pods::creation_problem)
                .or_else(|| wanted().find_map(|pod| pods::placing_problem(pod, inputs.now))),
            starting: wanted().find_map(|pod| pods::starting_problem(pod)).or_else(|| {
                let stuck = wanted().find_map(|pod| inputs.hints.get(pod.metadata.uid.as_deref()?))?;
                Some(Refusal::new(Reason::LaunchFailed, stuck.clone()))
            }),
        }
    }

    fn first(&self) -> Option<&Refusal> {
        let Self {
            object,
            weights,
            placing,
            starting,
        } = self;
        [object, weights, starting, placing].into_iter().flatten().next()
    }
}

fn wanted_of<'a>(inputs: &'a Inputs<'_>) -> Option<&'a Wanted<'a>> {
    match &inputs.verdict {
        Verdict::Invalid(_) => None,
        Verdict::NotApplied(_, wanted) | Verdict::Applied(wanted, _) => Some(wanted),
    }
}

fn accepted(inputs: &Inputs<'_>) -> Told {
    match &inputs.verdict {
        Verdict::Invalid(refusal) => no((*refusal).clone()),
        Verdict::NotApplied(refusal, _) => no((*refusal).clone()),
        Verdict::Applied(wanted, _) => match &wanted.validated.warning {
            Some(warning) => no(warning.clone()),
            None => yes(Reason::Valid, Reason::Valid.meaning()),
        },
    }
}

fn weights_cached(inputs: &Inputs<'_>, problems: &Problems) -> Told {
    if let Some(problem) = &problems.weights {
        return no(problem.clone());
    }
    let Some(wanted) = wanted_of(inputs) else {
        return no(Refusal::new(Reason::Starting, "the model is not accepted"));
    };
    let source = wanted.validated.model.source();
    if matches!(source, ModelSource::Claim { .. } | ModelSource::File { .. }) {
        return yes(Reason::ReadInPlace, format!("the weights are read from {source}"));
    }
    if fetch_job_name(wanted.validated).is_none() {
        return no(Refusal::new(Reason::NoCache, Reason::NoCache.meaning()));
    }
    match wanted.weights {
        Weights::Ready => yes(
            Reason::WeightsCached,
            format!("the weights of {source} are in the cache"),
        ),
        Weights::Awaited => no(fetching(inputs)),
    }
}

/// How far the job is that fills the cache.
fn fetching(inputs: &Inputs<'_>) -> Refusal {
    let told = facts::fetch_progress(inputs.observed);
    let message = told.unwrap_or_else(|| "the weights are being fetched into the cache".to_owned());
    Refusal::new(Reason::FetchingWeights, message)
}

fn scheduled(counts: &Counts, problems: &Problems) -> Told {
    if let Some(problem) = &problems.placing {
        return no(problem.clone());
    }
    if counts.scheduled >= counts.wanted {
        let message = match counts.wanted {
            0 => "no replica is wanted".to_owned(),
            wanted => format!("{wanted} of {wanted} replicas have a node"),
        };
        return yes(Reason::Scheduled, message);
    }
    no(Refusal::new(
        Reason::Scheduling,
        format!("{} of {} replicas have a node", counts.scheduled, counts.wanted),
    ))
}

fn loaded(inputs: &Inputs<'_>, counts: &Counts, problems: &Problems) -> Told {
    if counts.ready > 0 {
        let message = match facts::weights(inputs.observed).or_else(|| inputs.before.weights.clone()) {
            Some(weights) => format!(
                "{}, {} parameters, {}",
                weights.architecture.unwrap_or_default(),
                facts::in_short(weights.parameters.unwrap_or_default()),
                weights.dtype.unwrap_or_default()
            ),
            None => Reason::Loaded.meaning().to_owned(),
        };
        return yes(Reason::Loaded, message);
    }
    no(why_not_ready(inputs, counts, problems))
}

fn ready(inputs: &Inputs<'_>, counts: &Counts, problems: &Problems) -> Told {
    if counts.wanted == 0 || counts.ready == 0 {
        return no(why_not_ready(inputs, counts, problems));
    }
    if counts.ready >= counts.wanted {
        return yes(
            Reason::AllReplicasReady,
            format!("{} of {} replicas answer", counts.wanted, counts.wanted),
        );
    }
    yes(
        Reason::SomeReplicasReady,
        format!("{} of {} replicas answer", counts.ready, counts.wanted),
    )
}

/// The first thing between the model and its first answer.
fn why_not_ready(inputs: &Inputs<'_>, counts: &Counts, problems: &Problems) -> Refusal {
    if let Some(problem) = problems.first() {
        return problem.clone();
    }
    if counts.wanted == 0 {
        let reason = match wanted_of(inputs).is_some_and(|wanted| wanted.autoscaling.is_some()) {
            true => Reason::ScaledToZero,
            false => Reason::Stopped,
        };
        return Refusal::new(reason, reason.meaning());
    }
    if wanted_of(inputs).is_some_and(|wanted| wanted.weights == Weights::Awaited) {
        return fetching(inputs);
    }
    if counts.scheduled == 0 {
        return Refusal::new(
            Reason::Scheduling,
            format!("0 of {} replicas have a node", counts.wanted),
        );
    }
    facts::progress(inputs.observed)
        .unwrap_or_else(|| Refusal::new(Reason::Starting, Reason::Starting.meaning()))
}

fn progressing(inputs: &Inputs<'_>, counts: &Counts) -> Told {
    let settled = || no(Refusal::new(Reason::Settled, Reason::Settled.meaning()));
    let Some(wanted) = wanted_of(inputs) else {
        return settled();
    };
    if wanted.weights == Weights::Awaited {
        let Refusal { reason, message } = fetching(inputs);
        return yes(reason, message);
    }
    let status = inputs
        .observed
        .deployment
        .as_ref()
        .and_then(|deployment| deployment.status.as_ref());
    if let Verdict::Applied(_, applied) = &inputs.verdict
        && let Some(asked) = applied.state.engines_generation
        && status
            .and_then(|status| status.observed_generation)
            .is_none_or(|seen| seen < asked)
    {
        // What is counted below is of the Deployment as it was before.
        return yes(Reason::RollingOut, "the change has not reached the replicas yet");
    }
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let is_late = conditions.is_some_and(|all| {
        all.iter()
            .any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    });
    if is_late {
        return no(Refusal::new(
            Reason::ProgressDeadlineExceeded,
            Reason::ProgressDeadlineExceeded.meaning(),
        ));
    }
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    let existing = status.and_then(|status| status.replicas).unwrap_or(0);
    let has_old = existing > updated && updated < wanted.replicas.max(1) && counts.wanted > 0;
    if has_old || (existing > updated && existing > wanted.replicas) {
        return yes(
            Reason::RollingOut,
            format!(
                "{updated} of {} replicas are of the current kind",
                wanted.replicas
            ),
        );
    }
    if wanted.leaving > 0 {
        return yes(
            Reason::Scaling,
            format!(
                "{} of {} replicas go once they have finished",
                wanted.leaving, wanted.replicas
            ),
        );
    }
    if counts.ready < counts.wanted || counts.existing != counts.wanted {
        return yes(
            Reason::Scaling,
            format!(
                "{} of {} replicas answer",
                counts.ready.min(counts.wanted),
                counts.wanted
            ),
        );
    }
    settled()
}

fn degraded(problems: &Problems) -> Told {
    match problems.first() {
        Some(problem) => Told {
            is_true: true,
            what: problem.clone(),
        },
        None => no(Refusal::new(Reason::AsExpected, Reason::AsExpected.meaning())),
    }
}

fn yes(reason: Reason, message: impl Into<String>) -> Told {
    Told {
        is_true: true,
        what: Refusal::new(reason, message),
    }
}

fn no(what: Refusal) -> Told {
    Told { is_true: false, what }
}

fn to_condition(inputs: &Inputs<'_>, kind: Type, told: Told) -> Condition {
    /// What the schema allows, in bytes; a message beyond it has lost its reader long before.
    const LONGEST: usize = 4096;
    let status = if told.is_true { "True" } else { "False" };
    let before = inputs
        .before
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str());
    let since = before
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time.clone());
    let mut message = told.what.message;
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
    }
    Condition {
        last_transition_time: since.unwrap_or(Time(inputs.now)),
        message,
        observed_generation: inputs.model.metadata.generation,
        reason: told.what.reason.as_str().to_owned(),
        status: status.to_owned(),
        type_: kind.as_str().to_owned(),
    }
}
