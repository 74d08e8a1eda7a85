//! Writes the status if it changed, and tells what is news.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_crds::{
    FerrumModel, FerrumModelStatus,
    names::{self, ConditionType as Type},
};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    context::{Context, ModelMemory},
    dereference::Observed,
    events,
    status::{self, Inputs, Verdict},
};

/// Small steps of a start, such as one more pod that has a node, are written together, so far apart: of many models that
/// start at once they would be most of what the API server has to do.
pub(crate) const JOINED: Duration = Duration::from_secs(1);

/// A status that was written, and when.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) status: FerrumModelStatus,
    at: Instant,
}

/// Derives the status and writes it if it differs from the last. Gives how long a small step has to wait for others.
///
/// # Errors
/// An API server that cannot be asked.
pub(crate) async fn update_status(
    model: &Arc<FerrumModel>,
    verdict: Verdict<'_>,
    observed: &Observed,
    memory: &mut ModelMemory,
    context: &Context,
) -> Result<Option<Duration>, kube::Error> {
    let namespace = model.namespace().unwrap_or_default();
    let hints = memory.hints.ask(&context.client, &namespace, observed).await?;
    // The cache may still have the status before the last one that was written.
    let before = memory
        .written
        .as_ref()
        .map(|written| written.status.clone())
        .or_else(|| model.status.clone())
        .unwrap_or_default();
    let status = derive(model, &before, verdict, observed, &hints);
    let is_in_cache = model.status.as_ref() == Some(&status);
    if status == before && (is_in_cache || memory.written.is_some()) {
        return Ok(None);
    }
    if let Some(written) = &memory.written
        && is_small_step(&before, &status)
        && let Some(left) = JOINED.checked_sub(written.at.elapsed())
    {
        return Ok(Some(left));
    }
    let api: Api<FerrumModel> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": names::API_VERSION,
        "kind": names::KIND,
        "metadata": {"name": model.name_any(), "uid": model.uid()},
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api
        .patch_status(&model.name_any(), &params, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {}
        // Deleted, or made again: the status was of another object.
        Err(kube::Error::Api(error)) if error.is_not_found() || error.is_conflict() => return Ok(None),
        Err(error) => return Err(error),
    }
    context.events.tell(events::news(&before, &status), model);
    memory.written = Some(Written {
        status,
        at: Instant::now(),
    });
    Ok(None)
}

/// Whether nobody waits for the difference: no condition that says whether the model is up, is being changed or has
/// failed became another one, and no decision about its size was taken.
fn is_small_step(before: &FerrumModelStatus, after: &FerrumModelStatus) -> bool {
    const AWAITED: [Type; 5] = [
        Type::Accepted,
        Type::WeightsCached,
        Type::Ready,
        Type::Progressing,
        Type::Degraded,
    ];
    let state = |status: &FerrumModelStatus, kind: Type| {
        let found = status
            .conditions
            .iter()
            .find(|found| found.type_ == kind.as_str());
        found.map(|found| (found.status.clone(), found.reason.clone()))
    };
    before.observed_generation == after.observed_generation
        && before.autoscaling == after.autoscaling
        && AWAITED
            .into_iter()
            .all(|kind| state(before, kind) == state(after, kind))
}

fn derive(
    model: &FerrumModel,
    before: &FerrumModelStatus,
    verdict: Verdict<'_>,
    observed: &Observed,
    hints: &BTreeMap<String, String>,
) -> FerrumModelStatus {
    status::derive(&Inputs {
        model,
        before,
        verdict,
        observed,
        hints,
        now: Timestamp::now(),
    })
}
