//! A namespace for each test, and the refusal to run where tests have no business.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
};

use super::{CHART_NAMESPACE, LABEL, dump, setting};

/// A ConfigMap of kube-system that e2e/cluster makes: whoever has it is there to be broken.
const MARKER: &str = "ferrum-test-cluster";

/// Runs a test in a fresh namespace with restricted Pod Security, and deletes it afterwards.
///
/// When the test fails or panics, the namespace's objects, events and logs, and those of the chart, are written to
/// standard error before anything is deleted. `FERRUM_E2E_KEEP=1` leaves the namespace of a failed test.
///
/// # Errors
/// What the test returns; an unreachable or refused cluster.
///
/// # Panics
/// When the test does.
pub async fn with_temp_ns<T, F>(test: T) -> Result<()>
where
    T: FnOnce(Client, String) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let client = connect().await?;
    let namespace = create(&client).await?;
    // A task of its own, so that a panic comes back as a value.
    let outcome = tokio::spawn(test(client.clone(), namespace.clone())).await;
    if !matches!(outcome, Ok(Ok(()))) {
        dump(&client, &namespace).await;
        dump(&client, CHART_NAMESPACE).await;
        if setting("FERRUM_E2E_KEEP").is_some() {
            return ended(outcome).with_context(|| format!("namespace {namespace} was kept"));
        }
    }
    Api::<Namespace>::all(client)
        .delete(&namespace, &DeleteParams::background())
        .await?;
    ended(outcome)
}

/// A client of the cluster under test.
///
/// # Errors
/// No kubeconfig, no answer, or a cluster that nobody marked as one for tests.
pub async fn connect() -> Result<Client> {
    let config = Config::infer()
        .await
        .context("no cluster: run these tests with `make e2e`")?;
    let url = config.cluster_url.clone();
    let client = Client::try_from(config)?;
    if setting("FERRUM_E2E_ANY_CLUSTER").is_some() {
        return Ok(client);
    }
    let marker = Api::<ConfigMap>::namespaced(client.clone(), "kube-system")
        .get_opt(MARKER)
        .await
        .with_context(|| format!("the cluster at {url} does not answer"))?;
    if marker.is_none() {
        bail!(
            "refusing to run tests on the cluster at {url}: it has no ConfigMap kube-system/{MARKER}. If it may be \
             broken, create that (kubectl -n kube-system create configmap {MARKER}) or set FERRUM_E2E_ANY_CLUSTER=1"
        );
    }
    Ok(client)
}

async fn create(client: &Client) -> Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let millis = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let name = format!(
        "e2e-{millis:x}-{:x}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let test = std::thread::current()
        .name()
        .unwrap_or("unknown")
        .replace("::", ".");
    let labels = [
        (LABEL, "true"),
        ("pod-security.kubernetes.io/enforce", "restricted"),
    ];
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            annotations: Some(BTreeMap::from([("ferrum.dev/e2e-test".to_owned(), test)])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(name)
}

fn ended(outcome: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    match outcome {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error.into()),
        },
    }
}
