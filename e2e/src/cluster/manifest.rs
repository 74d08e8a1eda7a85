//! Manifests, applied as `kubectl apply` does it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, ValidationDirective},
    runtime::wait::conditions,
};
use serde::Deserialize;
use serde_json::Value;

use super::{await_condition, chart};

const FIELD_MANAGER: &str = "ferrum-e2e";

/// The objects of a YAML text, empty documents left out.
///
/// # Errors
/// Broken YAML.
pub fn objects(yaml: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            found.push(value);
        }
    }
    Ok(found)
}

/// Applies an object on the server, in `namespace` unless it names its own; unknown fields are refused.
///
/// # Errors
/// The API server's refusal, in its words.
pub async fn apply(client: &Client, namespace: &str, object: &Value) -> Result<DynamicObject> {
    let types = |field| {
        object[field]
            .as_str()
            .with_context(|| format!("no {field}: {object}"))
    };
    let (group, version) = match types("apiVersion")?.split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", types("apiVersion")?),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, types("kind")?));
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let namespace = metadata["namespace"].as_str().unwrap_or(namespace);
    let api: Api<DynamicObject> = if is_cluster_wide(types("kind")?) {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
    parameters.field_validation = Some(ValidationDirective::Strict);
    match api.patch(name, &parameters, &Patch::Apply(object)).await {
        Ok(stored) => Ok(stored),
        Err(kube::Error::Api(status)) => bail!("{}", status.message), // what kubectl shows
        Err(error) => Err(error.into()),
    }
}

/// Installs the CustomResourceDefinition alone, such that the chart can take it over later.
///
/// # Errors
/// When the API server refuses it or does not serve it soon.
pub async fn install_definition(client: &Client) -> Result<CustomResourceDefinition> {
    let mut definition = ferrum_crds::crd();
    let helm = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    definition
        .metadata
        .annotations
        .get_or_insert_default()
        .extend(BTreeMap::from([
            helm("meta.helm.sh/release-name", chart::RELEASE),
            helm("meta.helm.sh/release-namespace", chart::NAMESPACE),
        ]));
    definition
        .labels_mut()
        .extend([helm("app.kubernetes.io/managed-by", "Helm")]);
    let name = definition.name_any();
    let api = Api::all(client.clone());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&definition)).await?;
    let limit = Duration::from_secs(20);
    await_condition(&api, &name, limit, conditions::is_crd_established())
        .await?
        .context("the definition is gone")
}

fn is_cluster_wide(kind: &str) -> bool {
    [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
    ]
    .contains(&kind)
}
