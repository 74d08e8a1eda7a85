//! Writes the status if it changed, and tells what is news.

use std::{collections::BTreeMap, sync::Arc};

use ferrum_crds::{FerrumModel, FerrumModelStatus, names};
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
    context.events.tell(events::news(&before, &status), model);
    memory.written = Some(status);
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
