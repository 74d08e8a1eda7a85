//! What a person wants to see of a namespace in which a test failed.

#![allow(clippy::print_stderr)] // standard error is what the test runner shows of a failed test

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams},
};

/// What may be in the way, in the order in which a person looks.
const KINDS: &[(&str, &str, &str)] = &[
    ("ferrum.dev", "v1alpha1", "FerrumModel"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("batch", "v1", "Job"),
    ("", "v1", "Pod"),
    ("", "v1", "PersistentVolumeClaim"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("", "v1", "Service"),
];
/// Of one kind; a test of scale has thousands.
const MAX_OBJECTS: u32 = 12;
const MAX_EVENTS: usize = 100;
const LOG_LINES: i64 = 200;

/// Writes a namespace's objects, events and logs (also of containers that were restarted) to standard error.
/// What cannot be read is said and passed over: the test's own failure matters more.
pub async fn dump(client: &Client, namespace: &str) {
    eprintln!("==== namespace {namespace}");
    for (group, version, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        match api.list(&ListParams::default().limit(MAX_OBJECTS)).await {
            Ok(found) => {
                let more = found.metadata.remaining_item_count.unwrap_or(0);
                for object in found {
                    show(kind, object);
                }
                if more > 0 {
                    eprintln!("-- and {more} more of {kind}");
                }
            }
            Err(error) => eprintln!("-- {kind}: {error}"),
        }
    }
    dump_events(client, namespace).await;
    dump_logs(client, namespace).await;
}

fn show(kind: &str, mut object: DynamicObject) {
    object.managed_fields_mut().clear();
    match serde_yaml::to_string(&object) {
        Ok(yaml) => eprintln!("-- {kind} {}\n{yaml}", object.name_any()),
        Err(error) => eprintln!("-- {kind} {}: {error}", object.name_any()),
    }
}

async fn dump_events(client: &Client, namespace: &str) {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut found = match api.list(&ListParams::default()).await {
        Ok(found) => found.items,
        Err(error) => return eprintln!("-- events: {error}"),
    };
    found.sort_by_key(|event| event.metadata.creation_timestamp.clone());
    eprintln!("-- the last of {} events", found.len());
    for event in found.iter().rev().take(MAX_EVENTS).rev() {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        eprintln!(
            "{} {} {} {}/{}: {}",
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.to_string())
                .unwrap_or_default(),
            text(&event.type_),
            text(&event.reason),
            text(&event.involved_object.kind),
            text(&event.involved_object.name),
            event.message.as_deref().unwrap_or_default().trim()
        );
    }
}

async fn dump_logs(client: &Client, namespace: &str) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = match api.list(&ListParams::default().limit(MAX_OBJECTS)).await {
        Ok(pods) => pods.items,
        Err(error) => return eprintln!("-- logs: {error}"),
    };
    for pod in &pods {
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            let first = spec.init_containers.iter().flatten();
            first.chain(&spec.containers)
        });
        for container in containers {
            let restarted = pod.status.as_ref().is_some_and(|status| {
                let all = status.container_statuses.iter().flatten();
                all.chain(status.init_container_statuses.iter().flatten())
                    .any(|state| state.name == container.name && state.restart_count > 0)
            });
            for previous in [true, false] {
                if previous && !restarted {
                    continue;
                }
                let parameters = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    tail_lines: Some(LOG_LINES),
                    ..LogParams::default()
                };
                let before = if previous { ", before its restart" } else { "" };
                let logs = api.logs(&pod.name_any(), &parameters).await;
                eprintln!("-- log of {}/{}{before}", pod.name_any(), container.name);
                eprintln!("{}", logs.unwrap_or_else(|error| format!("(none: {error})")));
            }
        }
    }
}
