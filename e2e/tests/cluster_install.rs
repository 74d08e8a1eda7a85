//! From `helm install` to the first answer, and what `helm uninstall` leaves.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // the measured times, with --nocapture

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ferrum_crds::FerrumModel;
use ferrum_e2e::{
    client::{ChatRequest, Outcome, chat},
    cluster::{
        CHART_NAMESPACE, Chart, apply, connect, eventually,
        models::{PATIENCE, await_settled, endpoint, merge, model},
        with_temp_ns,
    },
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};
use serde_json::json;

/// With the images present on the nodes; the weights come from a hub in the cluster's network.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_chart_answers_within_a_minute_and_leaves_models_when_it_goes() -> Result<()> {
    // Whatever was installed before goes, so that this is an installation and no upgrade.
    let chart = Chart::shared().await?;
    chart.uninstall().await?;
    let leases: Api<Lease> = Api::namespaced(connect().await?, CHART_NAMESPACE);
    // An operator that loses its rights before it ends cannot give the lease back; a new cluster has none.
    leases
        .delete("ferrum-operator", &DeleteParams::default())
        .await
        .ok();
    with_temp_ns(|client, namespace| async move {
        let begun = Instant::now();
        chart.install().await?;
        let installed = begun.elapsed();
        let name = format!("first-{namespace}");
        let mut manifest = model("first", "hf://HuggingFaceTB/SmolLM2-135M-Instruct");
        merge(
            &mut manifest["spec"],
            json!({"servedNames": [name], "engine": {"maxModelLen": 2048}}),
        );
        apply(&client, &namespace, &manifest).await?;
        let url = endpoint(&client).await?;
        let http = reqwest::Client::new();
        let request = ChatRequest {
            model: &name,
            prompt: "Hello",
            max_tokens: 1,
            stream: true,
        };
        eventually("the first token", PATIENCE, || async {
            match chat(&http, &url, &request).await {
                Outcome::Complete { .. } => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        })
        .await?;
        let total = begun.elapsed();
        println!(
            "helm install until every pod is ready: {:.1} s; apply to the first token: {:.1} s; together {:.1} s",
            installed.as_secs_f64(),
            (total - installed).as_secs_f64(),
            total.as_secs_f64()
        );
        ensure!(total < LIMIT, "{total:?}");
        await_settled(&client, &namespace, "first", 1).await?;

        // The user's objects stay when the chart goes.
        chart.uninstall().await?;
        let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        models.get("first").await?;
        chart.install().await?;
        await_settled(&client, &namespace, "first", 1).await?;
        Ok(())
    })
    .await
}
