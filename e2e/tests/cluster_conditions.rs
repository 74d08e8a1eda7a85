//! Broken manifests that a cluster accepts: each shows its reason soon.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // the reasons and times are what the test shows, with --nocapture

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ferrum_crds::FerrumModel;
use ferrum_e2e::cluster::{
    BrokenManifest, Chart, Expectation, apply, await_condition, broken_manifests, condition, objects,
    with_temp_ns,
};
use futures_util::{StreamExt as _, stream};
use kube::Api;
use serde_json::Value;

/// Manifests at a time; each has a namespace of its own.
const AT_A_TIME: usize = 3;
/// From the cause on. Where a pod must first start and fail, its start comes before the cause.
const LIMIT: Duration = Duration::from_secs(10);
const POD_START: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_whose_fault_shows_in_the_cluster_tells_its_reason_within_ten_seconds() -> Result<()> {
    let shared = Chart::shared().await?;
    let mut by_chart: BTreeMap<Vec<String>, Vec<BrokenManifest>> = BTreeMap::new();
    for manifest in broken_manifests()? {
        if matches!(manifest.expectation, Expectation::Condition { .. }) {
            by_chart.entry(manifest.chart.clone()).or_default().push(manifest);
        }
    }
    let mut outcomes = Vec::new();
    // The shared installation, which has no arguments of its own, comes first.
    for (arguments, manifests) in by_chart {
        let is_shared = arguments.is_empty();
        let mut chart = shared.clone();
        chart.arguments.extend(arguments);
        if !is_shared {
            chart.install().await?;
        }
        outcomes.extend(all_show(manifests).await);
        if !is_shared {
            shared.install().await?;
        }
    }
    let mut wrong = Vec::new();
    for (name, outcome) in &outcomes {
        match outcome {
            Ok(told) => println!("{name}: {told}"),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} manifests:\n{}",
        wrong.len(),
        outcomes.len(),
        wrong.join("\n")
    );
    println!("{} manifests told their reason", outcomes.len());
    ensure!(!outcomes.is_empty(), "no manifest expects a condition");
    Ok(())
}

async fn all_show(manifests: Vec<BrokenManifest>) -> Vec<(String, Result<String>)> {
    stream::iter(manifests)
        .map(|manifest| async move { (manifest.name, shows(manifest.expectation, manifest.text).await) })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await
}

/// Applies all of `text`; the last object is the one that must show the condition. Tells reason, message and time.
async fn shows(expectation: Expectation, text: String) -> Result<String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    with_temp_ns(|client, namespace| async move {
        let Expectation::Condition {
            r#type,
            status,
            reason,
        } = expectation
        else {
            return Ok(());
        };
        let applied = Instant::now();
        let mut last = None;
        for mut object in objects(&text)? {
            serve_under_a_name_of_its_own(&mut object, &namespace);
            last = Some(apply(&client, &namespace, &object).await?);
        }
        let name = last
            .and_then(|object| object.metadata.name)
            .context("an object")?;
        let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        let (kind, wanted) = (r#type.clone(), reason.clone());
        let shown = move |model: Option<&FerrumModel>| {
            let condition = model.and_then(|model| condition(model, &kind));
            condition.is_some_and(|condition| condition.status == status && condition.reason == wanted)
        };
        let model = await_condition(&models, &name, LIMIT + POD_START, shown).await?;
        let model = model.context("it was deleted")?;
        let message = condition(&model, &r#type).map(|condition| condition.message.clone());
        let message = message
            .filter(|message| !message.is_empty())
            .context("no message")?;
        let _ = sender.send(format!(
            "{reason} after {:.1} s: {message}",
            applied.elapsed().as_secs_f64()
        ));
        Ok(())
    })
    .await?;
    Ok(receiver.await?)
}

/// Every namespace is served and the manifests' models are named alike: only the manifest about names may clash.
fn serve_under_a_name_of_its_own(object: &mut Value, namespace: &str) {
    if object["kind"] == "FerrumModel" && object["spec"]["servedNames"].is_null() {
        object["spec"]["servedNames"] = serde_json::json!([namespace]);
    }
}
