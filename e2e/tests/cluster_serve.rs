//! A FerrumModel's life with real weights: served, cached, scaled, deleted.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // the measured times, with --nocapture

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ferrum_crds::FerrumModel;
use ferrum_e2e::{
    client::{ChatRequest, Outcome, chat},
    cluster::{
        Chart, apply, await_condition, eventually,
        models::{self, PATIENCE, await_settled, endpoint, made_objects, model, patch_spec, serve, sim},
        with_temp_ns,
    },
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// A prompt whose answer is certain (margins were checked against the reference).
const PROMPT: &str = "What is the capital of France? Answer in one sentence.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smollm2_from_the_hub_streams_a_true_answer_through_the_service() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let url = endpoint(&client).await?;
        let name = format!("smollm2-{namespace}");
        let mut manifest = model("smollm2", "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main");
        models::merge(
            &mut manifest["spec"],
            json!({"servedNames": [name], "engine": {"maxModelLen": 2048}}),
        );
        let applied = Instant::now();
        apply(&client, &namespace, &manifest).await?;
        // Asked at once: the router holds the request until a replica can answer.
        let answer = eventually("the router knows the model", PATIENCE, || ask(&url, &name)).await?;
        println!(
            "apply to the last token of the answer: {:.1} s",
            applied.elapsed().as_secs_f64()
        );
        ensure!(answer.contains("Paris"), "{answer}");

        let served = await_settled(&client, &namespace, "smollm2", 1).await?;
        let status = served.status.context("a status")?;
        let weights = status.weights.context("what the weights are")?;
        assert_eq!(weights.architecture.as_deref(), Some("llama"));
        assert_eq!(weights.context_length, Some(2048));
        assert!(
            weights
                .parameters
                .is_some_and(|count| (134_000_000..136_000_000).contains(&count))
        );
        println!(
            "cold start: {}",
            serde_json::to_string(&status.cold_start.context("a cold start")?)?
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_fetched_into_a_cache_once_and_the_share_is_told_meanwhile() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let url = endpoint(&client).await?;
        let name = format!("cached-{namespace}");
        let mut manifest = model("cached", "hf://test/slow");
        models::merge(
            &mut manifest["spec"],
            json!({"servedNames": [name], "cache": {"size": "1Gi"}, "engine": {"maxModelLen": 2048}}),
        );
        apply(&client, &namespace, &manifest).await?;
        let all: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        let heard = Mutex::new(Vec::new());
        let told = |model: Option<&FerrumModel>| {
            let cached = model.and_then(|model| models::condition(model, "WeightsCached"));
            let Some(cached) = cached else { return false };
            let share = cached.message.strip_prefix("weights: ").map(str::to_owned);
            let mut shares = heard.lock().expect("no panic while it is held");
            if shares.last() != share.as_ref() {
                shares.extend(share);
            }
            cached.status == "True"
        };
        await_condition(&all, "cached", PATIENCE, told).await?;
        let shares = heard.into_inner()?;
        println!("told meanwhile: {}", shares.join(", "));
        let moves = shares
            .iter()
            .any(|share| !share.starts_with("0 %") && share.contains(" % of 0.1 GB"));
        ensure!(moves, "{shares:?}");
        await_settled(&client, &namespace, "cached", 1).await?;
        let answer = ask(&url, &name).await?;
        ensure!(answer.contains("Paris"), "{answer}");
        Ok(())
    })
    .await
}

async fn ask(url: &str, model: &str) -> Result<String> {
    let request = ChatRequest {
        model,
        prompt: PROMPT,
        max_tokens: 24,
        stream: true,
    };
    match chat(&reqwest::Client::new(), url, &request).await {
        Outcome::Complete { text } => Ok(text),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_model_answers_behind_the_same_endpoint() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let url = endpoint(&client).await?;
        let name = format!("minilm-{namespace}");
        let mut manifest = model("minilm", "hf://sentence-transformers/all-MiniLM-L6-v2");
        manifest["spec"]["servedNames"] = json!([name]);
        serve(&client, &namespace, &manifest, 1).await?;
        let body = json!({"model": name, "input": ["a text", "another"]});
        let post = reqwest::Client::new().post(format!("{url}/v1/embeddings"));
        let sent = post
            .header("content-type", "application/json")
            .body(body.to_string())
            .send();
        let answer: Value = sent.await?.error_for_status()?.json().await?;
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(answer["data"][0]["embedding"].as_array().map(Vec::len), Some(384));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_model_removes_all_that_was_made_for_it_and_nothing_else() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let other =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}, "data": {}});
        apply(&client, &namespace, &other).await?;
        let before = made_objects(&namespace).await?;
        serve(
            &client,
            &namespace,
            &sim("short-lived", json!({"replicas": 2})),
            2,
        )
        .await?;
        let made = made_objects(&namespace).await?;
        let budgets = made.get("poddisruptionbudget.policy");
        ensure!(
            budgets.is_some_and(|names| names.contains(&"short-lived".to_owned())),
            "{made:?}"
        );
        serve(&client, &namespace, &sim("stays", json!({})), 1).await?;
        let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        models.delete("short-lived", &DeleteParams::background()).await?;
        eventually("nothing is left of it", PATIENCE, || async {
            let left = made_objects(&namespace).await?;
            let text = format!("{left:?}");
            ensure!(!text.contains("short-lived"), "{text}");
            ensure!(text.contains("stays"), "{text}");
            Ok(())
        })
        .await?;
        await_settled(&client, &namespace, "stays", 1).await?;
        models.delete("stays", &DeleteParams::background()).await?;
        eventually("only what was there before is left", PATIENCE, || async {
            let left = made_objects(&namespace).await?;
            ensure!(left == before, "{left:?}, before {before:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_made_again_under_the_same_name_answers_as_fast_as_the_first_time() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let url = endpoint(&client).await?;
        let name = format!("again-{namespace}");
        let manifest = sim("again", json!({"servedNames": [name]}));
        let mut times = Vec::new();
        for _ in 0..2 {
            let applied = Instant::now();
            apply(&client, &namespace, &manifest).await?;
            eventually("it answers", PATIENCE, || ask(&url, &name)).await?;
            times.push(applied.elapsed());
            let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
            models.delete("again", &DeleteParams::background()).await?;
            await_condition(&models, "again", PATIENCE, |model: Option<&FerrumModel>| {
                model.is_none()
            })
            .await?;
        }
        println!("apply to an answer: {:.2?}, then {:.2?}", times[0], times[1]);
        ensure!(times[1] < times[0] + Duration::from_secs(3), "{times:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scale_subresource_changes_the_number_of_replicas() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        serve(&client, &namespace, &sim("scaled", json!({"replicas": 1})), 1).await?;
        let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
        let three = Patch::Merge(json!({"spec": {"replicas": 3}}));
        models
            .patch_scale("scaled", &PatchParams::default(), &three)
            .await?;
        await_settled(&client, &namespace, "scaled", 3).await?;
        let scale = models.get_scale("scaled").await?;
        assert_eq!(scale.status.as_ref().map(|status| status.replicas), Some(3));
        let selector = scale.status.and_then(|status| status.selector);
        assert!(selector.is_some_and(|selector| selector.contains("ferrum.dev/model=scaled")));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_engine_setting_reaches_the_pods() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        serve(&client, &namespace, &sim("changed", json!({})), 1).await?;
        patch_spec(
            &client,
            &namespace,
            "changed",
            json!({"engine": {"maxNumSeqs": 7}}),
        )
        .await?;
        await_settled(&client, &namespace, "changed", 1).await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        let deployment = serde_json::to_string(&deployments.get("changed").await?.spec)?;
        ensure!(deployment.contains("--max-num-seqs=7"), "{deployment}");
        eventually("the old pod is gone", PATIENCE, || async {
            let pods = models::engines(&client, &namespace, "changed").await?;
            let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
            ensure!(pods.len() == 1, "{names:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_without_replicas_answers_the_first_request_and_goes_back_to_none() -> Result<()> {
    Chart::shared().await?;
    with_temp_ns(|client, namespace| async move {
        let url = endpoint(&client).await?;
        let name = format!("resting-{namespace}");
        let autoscaling = json!({"minReplicas": 0, "maxReplicas": 2, "scaleDownDelaySeconds": 1});
        let manifest = sim(
            "resting",
            json!({"servedNames": [name], "autoscaling": autoscaling}),
        );
        serve(&client, &namespace, &manifest, 0).await?;
        for _ in 0..3 {
            let asked = Instant::now();
            let request = ChatRequest {
                model: &name,
                prompt: PROMPT,
                max_tokens: 1,
                stream: true,
            };
            let outcome = chat(&reqwest::Client::new(), &url, &request).await;
            ensure!(matches!(outcome, Outcome::Complete { .. }), "{outcome:?}");
            let total = asked.elapsed().as_secs_f64();
            let models: Api<FerrumModel> = Api::namespaced(client.clone(), &namespace);
            let start = models
                .get("resting")
                .await?
                .status
                .and_then(|status| status.cold_start);
            println!("from zero to a token: {total:.2} s, of which {start:?}");
            await_settled(&client, &namespace, "resting", 0).await?;
        }
        Ok(())
    })
    .await
}
