//! What clients notice while the cluster does what clusters do: nothing.
//!
//! Twenty official clients, half of them streaming, ask two replicas of SmolLM2 all the time; where many replicas are
//! needed, or what one pod was sent is counted, simulated ones.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // the table is what the test shows, with --nocapture

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use ferrum_e2e::{
    cluster::{
        CHART_NAMESPACE, Chart, eventually, freeze_api_server, kill_container,
        models::{PATIENCE, await_settled, endpoint, engines, merge, model, patch_spec, serve, sim},
        thaw_api_server, with_temp_ns,
    },
    traffic::{CLIENTS, Traffic},
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::process::Command;

const MODEL: &str = "steady";

/// Tokens that simulated engines say if nobody stops them.
const LONG_ANSWER: usize = 800;

/// Where an event happens.
#[derive(Clone)]
struct Scene {
    client: Client,
    namespace: String,
    served: String,
}

/// What answers.
#[derive(Clone, Copy)]
enum Engines {
    SmolLm2,
    Simulated,
}

impl Engines {
    fn manifest(self, served: &str) -> Value {
        let spec = json!({"replicas": 2, "servedNames": [served]});
        match self {
            Self::Simulated => {
                let mut manifest = sim(MODEL, spec);
                if let Value::Array(environment) = &mut manifest["spec"]["podTemplate"]["env"] {
                    let tokens = LONG_ANSWER.to_string();
                    environment.push(json!({"name": "FERRUM_SIM_ANSWER_TOKENS", "value": tokens}));
                }
                manifest
            }
            Self::SmolLm2 => {
                let mut manifest = model(MODEL, "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main");
                // Small: this machine holds the whole cluster, its clients and up to three of these.
                let engine = json!({"maxModelLen": 512, "maxNumSeqs": 32, "kvCacheMemory": "128Mi"});
                let resources = json!({"requests": {"cpu": "20m", "memory": "256Mi"}});
                merge(&mut manifest["spec"], spec);
                merge(
                    &mut manifest["spec"],
                    json!({"engine": engine, "podTemplate": {"resources": resources}}),
                );
                manifest
            }
        }
    }
}

/// Runs `event` under traffic, `replicas` before and after it, and prints a row of the table. Fails when a request
/// failed, streams that a killed pod had begun aside.
async fn under_traffic<E, F>(what: &'static str, engines: Engines, killed_pods: u64, event: E) -> Result<()>
where
    E: FnOnce(Scene) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    Chart::shared().await?;
    with_temp_ns(move |client, namespace| async move {
        let served = format!("{MODEL}-{namespace}");
        serve(&client, &namespace, &engines.manifest(&served), 2).await?;
        let endpoint = endpoint(&client).await?;
        let traffic = Traffic::start(&endpoint, &served).await?;
        let scene = Scene {
            client: client.clone(),
            namespace: namespace.clone(),
            served,
        };
        let begun = Instant::now();
        let done = event(scene).await;
        let recovered = begun.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let report = traffic.finish().await?;
        done.context(what)?;
        println!(
            "| {what} | {} of {} failed, {} cut | {:.1} s | {:.1} s | {:.2} s |",
            report.failed,
            report.failed + report.succeeded,
            report.cut_streams,
            recovered.as_secs_f64(),
            report.longest_silence_seconds,
            report.latency_seconds.max.unwrap_or(0.0),
        );
        ensure!(
            report.succeeded > CLIENTS as u64,
            "too little traffic: {report:?}"
        );
        let allowed = if killed_pods > 0 { report.cut_streams } else { 0 };
        ensure!(report.failed <= allowed, "{what}: {:#?}", report.failures);
        Ok(())
    })
    .await
}

impl Scene {
    /// Waits until `replicas` answer and nothing changes.
    async fn settled(&self, replicas: i32) -> Result<()> {
        await_settled(&self.client, &self.namespace, MODEL, replicas).await?;
        Ok(())
    }

    /// Waits until a replica is missed, and then until none is.
    async fn ready_again(&self) -> Result<()> {
        eventually("the kubelet has seen the end of it", PATIENCE, || async {
            let pods = engines(&self.client, &self.namespace, MODEL).await?;
            let mut statuses = pods
                .iter()
                .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
            ensure!(
                statuses.any(|statuses| statuses[0].restart_count > 0),
                "no restart yet"
            );
            Ok(())
        })
        .await?;
        self.settled(2).await
    }

    async fn patch(&self, spec: Value) -> Result<()> {
        patch_spec(&self.client, &self.namespace, MODEL, spec).await
    }

    /// Waits until every engine's image ends so.
    async fn image(&self, end: &str) -> Result<()> {
        eventually("the new image", PATIENCE, || async {
            for pod in engines(&self.client, &self.namespace, MODEL).await? {
                let image = pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.containers[0].image.clone());
                ensure!(
                    image.as_ref().is_some_and(|image| image.ends_with(end)),
                    "{image:?}"
                );
            }
            Ok(())
        })
        .await
    }

    async fn first_engine(&self) -> Result<String> {
        let pods = engines(&self.client, &self.namespace, MODEL).await?;
        Ok(pods.first().context("an engine")?.name_any())
    }
}

/// An engine that is about to go.
#[derive(Clone)]
struct Going {
    name: String,
    url: String,
}

impl Going {
    async fn new(scene: &Scene) -> Result<Self> {
        let pods = engines(&scene.client, &scene.namespace, MODEL).await?;
        let pod = pods.first().context("an engine")?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        Ok(Self {
            name: pod.name_any(),
            url: format!("http://{}:8080", address.context("an address")?),
        })
    }

    /// An answer of [`LONG_ANSWER`] tokens, 10 ms each, from this very pod.
    async fn begin_long_answer(&self, served: &str) -> Result<reqwest::Response> {
        let body = json!({
            "model": served,
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": LONG_ANSWER,
            "stream": true,
        });
        let sent = reqwest::Client::new()
            .post(format!("{}/v1/chat/completions", self.url))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send();
        Ok(sent.await?.error_for_status()?)
    }

    /// Requests that it has been sent: answered, refused, or under way.
    async fn received(&self) -> Result<u64> {
        let text = reqwest::get(format!("{}/metrics", self.url))
            .await?
            .text()
            .await?;
        let counted = [
            "ferrum_engine_requests_total",
            "ferrum_engine_errors_total",
            "ferrum_engine_running_requests",
            "ferrum_engine_waiting_requests",
        ];
        let values = text
            .lines()
            .filter(|line| counted.iter().any(|name| line.starts_with(name)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum())
    }
}

async fn kubectl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("kubectl").args(arguments).output().await?;
    if !output.status.success() {
        bail!(
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn restart(deployment: &str) -> Result<()> {
    let target = format!("deployment/{deployment}");
    kubectl(&["rollout", "restart", &target, "--namespace", CHART_NAMESPACE]).await?;
    kubectl(&[
        "rollout",
        "status",
        &target,
        "--namespace",
        CHART_NAMESPACE,
        "--timeout=120s",
    ])
    .await?;
    Ok(())
}

/// A test for each event: they share one cluster, so they run one after another (`--test-threads=1`).
macro_rules! events {
    ($($test:ident, $what:literal, $engines:ident, $killed:literal, $event:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() -> Result<()> {
            let _alone = ALONE.lock().await;
            under_traffic($what, Engines::$engines, $killed, $event).await
        }
    )*};
}

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

events! {
    a_changed_engine_setting_fails_no_request, "engine setting changed", SmolLm2, 0, |scene| async move {
        scene.patch(json!({"engine": {"maxNumSeqs": 16}})).await?;
        scene.settled(2).await
    };
    a_changed_image_fails_no_request, "rolling change of the engine's image", SmolLm2, 0, |scene| async move {
        // The image is the operator's setting; the same content under another name.
        let mut chart = Chart::shared().await?;
        chart.arguments.push("--set-string=images.engineCpu.tag=next".to_owned());
        chart.install().await?;
        scene.image(":next").await?;
        scene.settled(2).await?;
        chart.arguments.pop();
        chart.install().await?;
        scene.image(":0.1.0").await?;
        scene.settled(2).await
    };
    scaling_up_and_down_fails_no_request, "scale 2 -> 4 -> 1", Simulated, 0, |scene| async move {
        scene.patch(json!({"replicas": 4})).await?;
        scene.settled(4).await?;
        scene.patch(json!({"replicas": 1})).await?;
        scene.settled(1).await
    };
    standing_at_zero_for_a_while_fails_no_request, "scale to 0 and back", SmolLm2, 0, |scene| async move {
        scene.patch(json!({"replicas": 0})).await?;
        scene.settled(0).await?;
        scene.patch(json!({"replicas": 2})).await?;
        scene.settled(2).await
    };
    a_drained_node_fails_no_request, "drain of a node", SmolLm2, 0, |scene| async move {
        let pods = engines(&scene.client, &scene.namespace, MODEL).await?;
        let node = pods.first().and_then(|pod| pod.spec.as_ref()?.node_name.clone()).context("a node")?;
        let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
        let drained = kubectl(&drain).await;
        let settled = scene.settled(2).await;
        kubectl(&["uncordon", &node]).await?;
        drained?;
        settled
    };
    a_deleted_pod_fails_no_request, "deletion of a pod", SmolLm2, 0, |scene| async move {
        let pod = scene.first_engine().await?;
        kubectl(&["delete", "pod", &pod, "--namespace", &scene.namespace, "--wait=true"]).await?;
        scene.settled(2).await
    };
    a_pod_that_is_going_gets_no_request_after_a_second, "deletion of a pod that answers for 8 s more", Simulated, 0, |scene| async move {
        let going = Going::new(&scene).await?;
        let pod = going.name.clone();
        let long = going.begin_long_answer(&scene.served).await?;
        let long = tokio::spawn(long.text());
        kubectl(&["delete", "pod", &pod, "--namespace", &scene.namespace, "--wait=false"]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after_a_second = going.received().await?;
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = going.received().await?;
            ensure!(now <= after_a_second, "{pod}: {} requests more", now - after_a_second);
        }
        let answer = long.await??;
        ensure!(answer.contains("[DONE]"), "the long answer was cut: {answer}");
        scene.settled(2).await
    };
    a_killed_engine_fails_only_streams_that_it_had_begun, "kill -9 of an engine", SmolLm2, 1, |scene| async move {
        let pods = engines(&scene.client, &scene.namespace, MODEL).await?;
        let statuses = pods.first().and_then(|pod| pod.status.as_ref()?.container_statuses.clone());
        let id = statuses.and_then(|statuses| statuses.first()?.container_id.clone()).context("a container")?;
        kill_container(&id).await?;
        scene.ready_again().await
    };
    a_restarted_operator_fails_no_request, "restart of the operator", SmolLm2, 0, |scene| async move {
        restart("ferrum-operator").await?;
        scene.settled(2).await
    };
    a_lost_leader_fails_no_request, "loss of the leader", SmolLm2, 0, |scene| async move {
        let holder = ["get", "lease", "ferrum-operator", "--namespace", CHART_NAMESPACE, "-o", "jsonpath={.spec.holderIdentity}"];
        let leader = kubectl(&holder).await?;
        ensure!(!leader.is_empty(), "no leader");
        let pod = leader.split('/').next().unwrap_or(&leader).to_owned();
        let delete = ["delete", "pod", &pod, "--namespace", CHART_NAMESPACE, "--grace-period=0", "--force"];
        kubectl(&delete).await?;
        // The next leader carries out a change.
        scene.patch(json!({"replicas": 3})).await?;
        scene.settled(3).await?;
        ensure!(kubectl(&holder).await? != leader, "the dead operator still leads");
        Ok(())
    };
    restarted_routers_fail_no_request, "restart of both routers", SmolLm2, 0, |scene| async move {
        restart("ferrum-router").await?;
        scene.settled(2).await
    };
    an_unreachable_api_server_fails_no_request, "30 s without the API server", SmolLm2, 0, |scene| async move {
        freeze_api_server().await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        thaw_api_server().await?;
        scene.settled(2).await
    };
}
