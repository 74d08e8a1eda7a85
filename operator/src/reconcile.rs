//! One model, from what is wanted to what is: `dereference -> validate -> build -> apply -> update_status`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_crds::{AutoscalingStatus, FerrumModel, names::ConditionReason};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::json;

use crate::{
    apply::{Applier, ApplyError},
    autoscale::{self, Plan},
    build::{Weights, build, fetch_job_name},
    context::{Context, ModelMemory},
    dereference::{BROKEN_RECHECK, Observed, dereference},
    status::{
        Verdict, Wanted,
        fetch::{JobEnd, job_end},
        pods,
    },
    update_status::update_status,
    validate::{Refusal, Validated, validate},
};

/// A start that takes its time is looked at again so often, for what only time tells.
const STARTING_RECHECK: Duration = Duration::from_secs(4);
/// Shortest and longest pause after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// After so many tries, [`RETRY`]'s shortest pause apart, what should go and does not is told.
const LEAVING_TRIES: u32 = 20;

/// What one reconcile needs.
pub(crate) struct Reconciler {
    pub(crate) context: Arc<Context>,
    /// Which of the context's scopes the models are of.
    pub(crate) scope: usize,
}

/// Why a reconcile must be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("reading what it refers to: {0}")]
    Dereference(#[source] kube::Error),
    #[error("marking replicas: {0}")]
    Mark(#[source] kube::Error),
    #[error("applying: {0}")]
    Apply(#[source] ApplyError),
    #[error("writing the status: {0}")]
    Status(#[source] kube::Error),
}

/// Brings one model to what its manifest says.
pub(crate) async fn reconcile(
    model: Arc<FerrumModel>,
    this: Arc<Reconciler>,
) -> Result<Action, ReconcileError> {
    let started = Instant::now();
    let memory = this.context.memory(&model);
    let mut memory = memory.lock().await;
    let outcome = match model.metadata.deletion_timestamp {
        // Everything goes with its owner.
        Some(_) => Ok(Action::await_change()),
        None => this.run(model, &mut memory).await,
    };
    this.context.metrics.reconciled(started.elapsed());
    match &outcome {
        Ok(_) => memory.failures = 0,
        Err(_) => memory.failures = memory.failures.saturating_add(1),
    }
    outcome
}

/// When to try again: soon, then ever more rarely.
pub(crate) fn retry(model: Arc<FerrumModel>, error: &ReconcileError, this: Arc<Reconciler>) -> Action {
    this.context.metrics.reconcile_failed(error.word());
    let memory = this.context.memory(&model);
    let failures = memory.try_lock().map_or(1, |memory| memory.failures.max(1));
    let pause = RETRY.0.saturating_mul(1 << (failures - 1).min(16)).min(RETRY.1);
    if matches!(error, ReconcileError::Apply(ApplyError::Leaving(_))) {
        return Action::requeue(RETRY.0);
    }
    tracing::warn!(model = %ObjectRef::from_obj(&*model), %error, failures, "reconcile failed; tried again");
    Action::requeue(pause)
}

impl Reconciler {
    async fn run(&self, model: Arc<FerrumModel>, memory: &mut ModelMemory) -> Result<Action, ReconcileError> {
        let context = &*self.context;
        let scope = &context.scopes[self.scope];
        let found = dereference(Arc::clone(&model), scope, context)
            .await
            .map_err(ReconcileError::Dereference)?;
        let observed = &found.observed;
        self.follow_engines(&model, observed);

        // No client is needed until there is something to apply.
        let validated = match validate(&found, &context.config) {
            Ok(validated) => validated,
            Err(refusal) => {
                let verdict = Verdict::Invalid(&refusal);
                let joined = self.tell(&model, verdict, observed, memory).await?;
                return Ok(Action::requeue(joined.unwrap_or(BROKEN_RECHECK)));
            }
        };
        let weights = weights(&validated, observed);
        let before = autoscaling_before(&model, memory);
        let scaled = autoscale::scale(
            &validated,
            observed,
            before.as_ref(),
            &context.reports,
            &mut memory.autoscale,
        );
        let prepared = build(&validated, scaled.plan.replicas, weights);

        self.mark(&validated, &scaled.plan)
            .await
            .map_err(ReconcileError::Mark)?;
        let mut applier = Applier {
            client: &context.client,
            namespace: &validated.namespace,
            owner: &validated.owner,
            observed,
            seen: &mut memory.seen,
        };
        let applied = not_for_ever(applier.apply(prepared).await, memory.failures);
        let again_after = scaled.plan.again_after;
        let wanted = Wanted {
            validated: &validated,
            replicas: scaled.plan.replicas,
            leaving: scaled.plan.leaving,
            weights,
            autoscaling: scaled.status,
        };
        let (verdict, recheck) = match &applied {
            Ok(applied) => (Verdict::Applied(wanted, applied), None),
            Err(ApplyError::Refused(refusal)) => (Verdict::NotApplied(refusal, wanted), Some(BROKEN_RECHECK)),
            Err(_) => {
                return applied
                    .map(|_| Action::await_change())
                    .map_err(ReconcileError::Apply);
            }
        };
        let is_starting = is_starting(&verdict, observed);
        let joined = self.tell(&model, verdict, observed, memory).await?;
        let warned = validated.warning.as_ref().map(|_| BROKEN_RECHECK);
        let stuck = (is_starting || memory.hints.is_any_stuck()).then_some(STARTING_RECHECK);
        let pauses = [recheck, warned, stuck, again_after, joined];
        Ok(match pauses.into_iter().flatten().min() {
            Some(soonest) => Action::requeue(soonest),
            None => Action::await_change(),
        })
    }

    /// Gives how long the rest of the status has to wait.
    async fn tell(
        &self,
        model: &Arc<FerrumModel>,
        verdict: Verdict<'_>,
        observed: &Observed,
        memory: &mut ModelMemory,
    ) -> Result<Option<Duration>, ReconcileError> {
        update_status(model, verdict, observed, memory, &self.context)
            .await
            .map_err(ReconcileError::Status)
    }

    /// Listens to engines that start and to jobs that fetch; what they say causes a reconcile.
    fn follow_engines(&self, model: &FerrumModel, observed: &Observed) {
        let all = observed.engines.iter().chain(&observed.fetchers);
        for pod in all.filter(|pod| pods::is_wanted(pod)) {
            let triggers = Arc::clone(&self.context.scopes[self.scope].triggers);
            let model = ObjectRef::from_obj(model);
            self.context
                .engines
                .follow(pod, move || triggers.push(model.clone()));
        }
    }

    /// Tells routers, and the ReplicaSet, which replicas are to go.
    async fn mark(&self, validated: &Validated, plan: &Plan) -> Result<(), kube::Error> {
        use ferrum_crds::names::{ANNOTATION_DRAINING, ANNOTATION_POD_DELETION_COST, FIELD_MANAGER};
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &validated.namespace);
        let marks = plan.mark.iter().map(|pod| (pod, json!("true"), json!("-1000")));
        let unmarks = plan.unmark.iter().map(|pod| (pod, json!(null), json!(null)));
        for (pod, draining, cost) in marks.chain(unmarks) {
            let annotations = json!({ANNOTATION_DRAINING: draining, ANNOTATION_POD_DELETION_COST: cost});
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match api.patch_metadata(pod, &params, &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What goes takes a moment; what does not go is told.
fn not_for_ever<T>(applied: Result<T, ApplyError>, failures: u32) -> Result<T, ApplyError> {
    match applied {
        Err(ApplyError::Leaving(what)) if failures >= LEAVING_TRIES => {
            let message =
                format!("{what} is being deleted and does not go; see its finalizers, and what uses it");
            Err(ApplyError::Refused(Refusal::new(
                ConditionReason::ObjectRefused,
                message,
            )))
        }
        applied => applied,
    }
}

/// Where the weights are; a job that is done stays as the proof of it.
fn weights(validated: &Validated, observed: &Observed) -> Weights {
    let Some(name) = fetch_job_name(validated) else {
        return Weights::Ready;
    };
    let is_done = observed
        .jobs
        .iter()
        .any(|job| job.name_any() == name && job_end(job) == JobEnd::Complete);
    if is_done { Weights::Ready } else { Weights::Awaited }
}

fn autoscaling_before(model: &FerrumModel, memory: &ModelMemory) -> Option<AutoscalingStatus> {
    let written = memory.written.as_ref().map(|written| &written.status);
    let status = written.or(model.status.as_ref())?;
    status.autoscaling.clone()
}

/// Whether time alone may change what is told: a pod that cannot be placed, a job without a pod.
fn is_starting(verdict: &Verdict<'_>, observed: &Observed) -> bool {
    let Verdict::Applied(wanted, _) = verdict else {
        return false;
    };
    let ready = observed
        .engines
        .iter()
        .filter(|pod| pods::is_wanted(pod) && pods::is_ready(pod))
        .count();
    let missing = i32::try_from(ready).is_ok_and(|ready| ready < wanted.replicas);
    missing || wanted.weights == Weights::Awaited
}

impl ReconcileError {
    /// A word for metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Dereference(_) => "dereference",
            Self::Mark(_) => "mark",
            Self::Apply(ApplyError::Leaving(_)) => "leaving",
            Self::Apply(_) => "apply",
            Self::Status(_) => "status",
        }
    }
}
