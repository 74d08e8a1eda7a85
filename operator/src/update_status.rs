//! Writes the status if it changed, and an event for each change that a person would want to know.

use std::{collections::BTreeMap, sync::Arc};

use ferrum_crds::{
    FerrumModel, FerrumModelStatus,
    names::{self, ConditionType as Type},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;

use crate::{
    context::{Context, ModelMemory},
    dereference::Observed,
    explain::reference,
    status::{self, Inputs, Verdict},
};

/// Derives the status and writes it if it differs from the last.
///
/// # Errors
/// An API server that cannot be asked.
pub(crate) async fn update_status(
    model: &Arc<FerrumModel>,
    verdict: Verdict<'_>,
    observed: &Observed,
    memory: &mut ModelMemory,
    context: &Context,
) -> Result<(), kube::Error> {
    let namespace = model.namespace().unwrap_or_default();
    let hints = memory.hints.ask(&context.client, &namespace, observed).await?;
    // The cache may still have the status before the last one that was written.
    let before = memory
        .written
        .clone()
        .or_else(|| model.status.clone())
        .unwrap_or_default();
    let status = derive(model, &before, verdict, observed, &hints);
    let is_in_cache = model.status.as_ref() == Some(&status);
    if status == before && (is_in_cache || memory.written.is_some()) {
        return Ok(());
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
        Err(kube::Error::Api(error)) if error.is_not_found() || error.is_conflict() => return Ok(()),
        Err(error) => return Err(error),
    }
    let events = events(&before, &status);
    memory.written = Some(status);
    for event in events {
        if let Err(error) = context.recorder.publish(&event, &reference(&**model)).await {
            tracing::warn!(model = model.name_any(), %error, "cannot write an event");
        }
    }
    Ok(())
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

/// An event for each condition whose status or reason changed, where that is news.
fn events(before: &FerrumModelStatus, after: &FerrumModelStatus) -> Vec<Event> {
    let old = |kind: &str| before.conditions.iter().find(|condition| condition.type_ == kind);
    let changed = after.conditions.iter().filter(|condition| {
        old(&condition.type_)
            .is_none_or(|old| old.reason != condition.reason || old.status != condition.status)
    });
    let mut events: Vec<_> = changed
        .filter_map(|condition| event(condition, old(&condition.type_)))
        .collect();
    if let Some(scaled) = scaled(before, after) {
        events.push(scaled);
    }
    events
}

fn event(condition: &Condition, before: Option<&Condition>) -> Option<Event> {
    let kind: Type = condition.type_.parse().ok()?;
    let is_true = condition.status == "True";
    let was_true = before.is_some_and(|before| before.status == "True");
    let (type_, is_news) = match kind {
        Type::Degraded if is_true => (EventType::Warning, true),
        Type::Degraded => (EventType::Normal, was_true),
        Type::Ready | Type::Loaded => (EventType::Normal, is_true || was_true),
        Type::WeightsCached => (EventType::Normal, is_true && condition.reason == "WeightsCached"),
        Type::Progressing => (EventType::Normal, is_true),
        // A problem is told once, by Degraded.
        Type::Accepted | Type::Scheduled => (EventType::Normal, false),
    };
    is_news.then(|| Event {
        action: condition.type_.clone(),
        note: Some(condition.message.chars().take(1000).collect()),
        reason: condition.reason.clone(),
        secondary: None,
        type_,
    })
}

fn scaled(before: &FerrumModelStatus, after: &FerrumModelStatus) -> Option<Event> {
    let (before, after) = (before.autoscaling.as_ref(), after.autoscaling.as_ref()?);
    let from = before.and_then(|before| before.desired_replicas);
    if from == after.desired_replicas {
        return None;
    }
    Some(Event {
        action: "Autoscaling".to_owned(),
        note: after.reason.clone(),
        reason: "Scaled".to_owned(),
        secondary: None,
        type_: EventType::Normal,
    })
}
