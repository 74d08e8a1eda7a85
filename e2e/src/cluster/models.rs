//! FerrumModels as tests make them, and what they wait for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ferrum_crds::FerrumModel;
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{CHART_NAMESPACE, CHART_RELEASE, apply, await_condition};

/// Longest wait for pods; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A FerrumModel without weights: its engines take 30 ms to a first token and 10 ms to each next one.
pub fn sim(name: &str, spec: Value) -> Value {
    let environment = [
        ("FERRUM_SIM", "true"),
        ("FERRUM_SIM_TTFT_MS", "30"),
        ("FERRUM_SIM_TPOT_MS", "10"),
    ];
    let environment: Vec<Value> = environment
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let mut model = model(name, "hf://sim/model");
    merge(
        &mut model["spec"],
        json!({
            "task": "chat",
            "podTemplate": {
                "env": environment,
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
            },
        }),
    );
    merge(&mut model["spec"], spec);
    model
}

/// A FerrumModel with nothing but its weights' place.
pub fn model(name: &str, source: &str) -> Value {
    json!({
        "apiVersion": ferrum_crds::names::API_VERSION,
        "kind": ferrum_crds::names::KIND,
        "metadata": {"name": name},
        "spec": {"model": source},
    })
}

/// `addition` over `value`, object by object, as a merge patch does.
pub fn merge(value: &mut Value, addition: Value) {
    match (value, addition) {
        (Value::Object(value), Value::Object(addition)) => {
            for (key, addition) in addition {
                merge(value.entry(key).or_insert(Value::Null), addition);
            }
        }
        (value, addition) => *value = addition,
    }
}

/// Applies a FerrumModel and waits until `replicas` of it answer and nothing is changing.
///
/// # Errors
/// The refusal, or the status that it has when time is up.
pub async fn serve(client: &Client, namespace: &str, model: &Value, replicas: i32) -> Result<FerrumModel> {
    let applied = apply(client, namespace, model).await?;
    await_settled(client, namespace, &applied.name_any(), replicas).await
}

/// Waits until exactly `replicas` answer and nothing is changing, for the spec as it is now.
///
/// # Errors
/// The status that it has when time is up.
pub async fn await_settled(
    client: &Client,
    namespace: &str,
    name: &str,
    replicas: i32,
) -> Result<FerrumModel> {
    let models: Api<FerrumModel> = Api::namespaced(client.clone(), namespace);
    let settled = move |model: Option<&FerrumModel>| {
        model.is_some_and(|model| {
            let Some(status) = &model.status else { return false };
            status.observed_generation == model.metadata.generation
                && status.ready_replicas.unwrap_or(0) == replicas
                && status.replicas.unwrap_or(0) == replicas
                && condition(model, "Progressing").is_some_and(|progressing| progressing.status == "False")
        })
    };
    let settled = await_condition(&models, name, PATIENCE, settled).await?;
    settled.context("it was deleted")
}

/// A condition of a FerrumModel.
pub fn condition<'a>(model: &'a FerrumModel, kind: &str) -> Option<&'a Condition> {
    let conditions = &model.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Merges a patch into a FerrumModel's spec.
///
/// # Errors
/// The API server's refusal.
pub async fn patch_spec(client: &Client, namespace: &str, name: &str, spec: Value) -> Result<()> {
    let models: Api<FerrumModel> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({"spec": spec}));
    models.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The engine pods of a model.
///
/// # Errors
/// The API server does not answer.
pub async fn engines(client: &Client, namespace: &str, name: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{}={name}", ferrum_crds::names::LABEL_MODEL);
    Ok(pods.list(&ListParams::default().labels(&selector)).await?.items)
}

/// Address of the chart's Service, without `/v1`.
///
/// # Errors
/// There is none.
pub async fn endpoint(client: &Client) -> Result<String> {
    let services: Api<Service> = Api::namespaced(client.clone(), CHART_NAMESPACE);
    let spec = services
        .get(CHART_RELEASE)
        .await?
        .spec
        .context("a Service has a spec")?;
    let address = spec.cluster_ip.context("a Service has an address")?;
    Ok(format!("http://{address}"))
}

/// Names of all objects of a namespace of the kinds that an operator makes, by kind.
///
/// # Errors
/// kubectl's words.
pub async fn made_objects(namespace: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let kinds = "deployments,replicasets,pods,jobs,persistentvolumeclaims,poddisruptionbudgets,services,configmaps,secrets,serviceaccounts,leases";
    let arguments = ["get", kinds, "--namespace", namespace, "--output=name"];
    let output = tokio::process::Command::new("kubectl")
        .args(arguments)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (kind, name) = line.split_once('/').context("kind/name")?;
        objects.entry(kind.to_owned()).or_default().push(name.to_owned());
    }
    Ok(objects)
}
