//! The pipeline against an API server that is a map.

use k8s_openapi::api::{apps::v1::Deployment, policy::v1::PodDisruptionBudget};
use kube::runtime::watcher::Event;
use serde_json::json;

use crate::{
    reconcile::ReconcileError,
    test_cluster::Cluster,
    test_support::{READY, model, object},
    update_status::JOINED,
};

const BUDGET: &str = "/apis/policy/v1/namespaces/n/poddisruptionbudgets/m";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/n/deployments/m";

fn objects_of(requests: &[String]) -> Vec<&str> {
    let events = |request: &&str| !request.starts_with("POST events");
    requests.iter().map(String::as_str).filter(events).collect()
}

#[tokio::test]
async fn a_new_model_is_applied_then_told_and_costs_nothing_afterwards() {
    let model = model("model: 'hf://org/name'");
    let mut cluster = Cluster::with(&model);
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(
        objects_of(&requests),
        [
            "GET deployments/m",
            "PATCH deployments/m",
            "PATCH ferrummodels/m/status"
        ]
    );
    let applied = cluster.server.lock().expect("lock").objects[DEPLOYMENT].clone();
    assert_eq!(applied["metadata"]["ownerReferences"][0]["uid"], "u-1");
    cluster.deployments.apply_watcher_event(&Event::Apply(
        serde_json::from_value(applied).expect("a deployment"),
    ));
    assert_eq!(
        cluster.reconcile(&model).await.expect("reconciled"),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn the_cache_comes_before_its_job_and_engines_wait_for_both() {
    let model = model("model: 'hf://org/name', cache: {size: 1Gi}");
    let cluster = Cluster::with(&model);
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    let objects = objects_of(&requests);
    assert_eq!(
        objects[..2],
        [
            "GET persistentvolumeclaims/m-cache",
            "PATCH persistentvolumeclaims/m-cache"
        ]
    );
    assert!(objects[3].starts_with("PATCH jobs/m-fetch-"), "{objects:?}");
    assert!(
        !objects.iter().any(|request| request.contains("deployments")),
        "{objects:?}"
    );
    assert_eq!(cluster.condition("WeightsCached")["reason"], "FetchingWeights");
}

#[tokio::test]
async fn an_object_of_someone_else_is_left_alone() {
    let model = model("model: 'hf://org/name'");
    let cluster = Cluster::with(&model);
    cluster.has(
        DEPLOYMENT,
        json!({"metadata": {"name": "m", "namespace": "n", "uid": "theirs"}, "spec": {"selector": {}, "template": {}}}),
    );
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(
        objects_of(&requests),
        ["GET deployments/m", "PATCH ferrummodels/m/status"]
    );
    assert_eq!(cluster.condition("Accepted")["reason"], "NameTaken");
    assert_eq!(cluster.condition("Degraded")["status"], "True");
}

#[tokio::test]
async fn a_change_by_someone_else_is_taken_back() {
    let model = model("model: 'hf://org/name'");
    let mut cluster = Cluster::with(&model);
    cluster.reconcile(&model).await.expect("reconciled");
    let mut changed = cluster.server.lock().expect("lock").objects[DEPLOYMENT].clone();
    changed["metadata"]["generation"] = 2.into();
    changed["spec"]["replicas"] = 0.into();
    cluster.deployments.apply_watcher_event(&Event::Apply(
        serde_json::from_value(changed).expect("a deployment"),
    ));
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(objects_of(&requests), ["PATCH deployments/m"]);
    assert_eq!(
        cluster.server.lock().expect("lock").objects[DEPLOYMENT]["spec"]["replicas"],
        1
    );
}

#[tokio::test]
async fn a_budget_comes_with_a_second_replica_and_goes_with_it() {
    let two = model("model: 'hf://org/name', replicas: 2");
    let mut cluster = Cluster::with(&two);
    cluster.has_engine("a", READY);
    let requests = cluster.reconcile(&two).await.expect("reconciled");
    assert!(
        !objects_of(&requests)
            .iter()
            .any(|request| request.contains("budgets")),
        "one engine needs none yet: {requests:?}"
    );
    let applied = cluster.server.lock().expect("lock").objects[DEPLOYMENT].clone();
    let applied: Deployment = serde_json::from_value(applied).expect("a deployment");
    cluster.deployments.apply_watcher_event(&Event::Apply(applied));
    cluster.has_engine("b", READY);
    let requests = cluster.reconcile(&two).await.expect("reconciled");
    let expected = ["GET poddisruptionbudgets/m", "PATCH poddisruptionbudgets/m"];
    assert_eq!(objects_of(&requests)[..2], expected);
    let applied = cluster.server.lock().expect("lock").objects[BUDGET].clone();
    assert_eq!(applied["spec"]["maxUnavailable"], 1);
    let applied: PodDisruptionBudget = serde_json::from_value(applied).expect("a budget");
    cluster.budgets.apply_watcher_event(&Event::Apply(applied));
    let one = model("model: 'hf://org/name', replicas: 1");
    let requests = cluster.reconcile(&one).await.expect("reconciled");
    assert!(
        objects_of(&requests).contains(&"DELETE poddisruptionbudgets/m"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_budget_of_someone_else_is_left_alone_and_told_while_the_engines_run() {
    let model = model("model: 'hf://org/name', replicas: 2");
    let mut cluster = Cluster::with(&model);
    cluster.has_engine("a", READY);
    cluster.has_engine("b", READY);
    cluster.has(
        BUDGET,
        json!({"metadata": {"name": "m", "namespace": "n", "uid": "theirs"}, "spec": {"maxUnavailable": 0}}),
    );
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    let objects = objects_of(&requests);
    assert!(objects.contains(&"PATCH deployments/m"), "{objects:?}");
    assert!(!objects.contains(&"PATCH poddisruptionbudgets/m"), "{objects:?}");
    assert_eq!(cluster.condition("Accepted")["reason"], "NameTaken");
}

#[tokio::test]
async fn a_refusal_is_told_and_a_failure_is_tried_again() {
    let model = model("model: 'hf://org/name'");
    let cluster = Cluster::with(&model);
    cluster.refuses(DEPLOYMENT, 500, "etcd is away");
    let failed = cluster.reconcile(&model).await;
    assert!(matches!(failed, Err(ReconcileError::Apply(_))), "{failed:?}");
    let cluster = Cluster::with(&model);
    cluster.refuses(
        "/apis/ferrum.dev/v1alpha1/namespaces/n/ferrummodels/m/status",
        404,
        "deleted meanwhile",
    );
    cluster
        .reconcile(&model)
        .await
        .expect("a model that is gone needs nothing");
}

#[tokio::test]
async fn a_secret_that_is_missing_stops_everything_before_it_is_made() {
    let model = model("model: 'hf://org/name', hfTokenSecretRef: {name: hf, key: token}");
    let cluster = Cluster::with(&model);
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(
        objects_of(&requests),
        ["GET secrets/hf", "PATCH ferrummodels/m/status"]
    );
    assert_eq!(cluster.condition("Ready")["reason"], "SecretNotFound");
}

#[tokio::test]
async fn a_deployment_of_a_deleted_model_of_the_same_name_is_helped_to_go() {
    let model = model("model: 'hf://org/name'");
    let mut cluster = Cluster::with(&model);
    let old: Deployment = object(
        "{metadata: {name: m, namespace: n, uid: old, ownerReferences: [{apiVersion: ferrum.dev/v1alpha1, kind: FerrumModel, \
         name: m, uid: u-0}]}}",
    );
    cluster
        .deployments
        .apply_watcher_event(&Event::Apply(old.clone()));
    cluster.has(DEPLOYMENT, serde_json::to_value(old).expect("JSON"));
    let failed = cluster.reconcile(&model).await;
    assert!(
        matches!(
            failed,
            Err(ReconcileError::Apply(crate::apply::ApplyError::Leaving(_)))
        ),
        "{failed:?}"
    );
    let requests = cluster.server.lock().expect("lock").requests.clone();
    assert_eq!(
        requests.last().map(String::as_str),
        Some("DELETE deployments/m"),
        "{requests:?}"
    );
    let memory = cluster.reconciler.context.memory(&model);
    memory.lock().await.failures = 100;
    cluster.reconcile(&model).await.expect("told");
    assert_eq!(cluster.condition("Degraded")["reason"], "ObjectRefused");
}

#[tokio::test]
async fn small_steps_of_a_start_are_told_together_and_what_is_awaited_at_once() {
    let model = model("model: 'hf://org/name', replicas: 2");
    let mut cluster = Cluster::with(&model);
    cluster.reconcile(&model).await.expect("reconciled");
    let applied = cluster.server.lock().expect("lock").objects[DEPLOYMENT].clone();
    let applied: Deployment = serde_json::from_value(applied).expect("a deployment");
    cluster.deployments.apply_watcher_event(&Event::Apply(applied));
    cluster.has_engine("a", "phase: Pending");
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(
        objects_of(&requests),
        Vec::<&str>::new(),
        "a pod more is a small step"
    );
    cluster.has_engine("a", READY);
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(objects_of(&requests), ["PATCH ferrummodels/m/status"]);
    assert_eq!(cluster.condition("Ready")["status"], "True");
    cluster.has_engine("b", "phase: Pending");
    cluster.reconcile(&model).await.expect("reconciled");
    tokio::time::sleep(JOINED).await; // what was left untold is due by then
    let requests = cluster.reconcile(&model).await.expect("reconciled");
    assert_eq!(objects_of(&requests), ["PATCH ferrummodels/m/status"]);
}
