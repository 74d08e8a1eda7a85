//! The pipeline against an API server that is a map.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use ferrum_crds::{FerrumModel, names};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Client,
    client::Body,
    runtime::{
        reflector::{store, store::Writer},
        watcher::Event,
    },
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::service_fn;

use crate::{
    autoscale::Reports,
    caches::Scope,
    context::{Context, Shared},
    engines::Engines,
    events::Events,
    metrics::Metrics,
    reconcile::{ReconcileError, Reconciler, reconcile},
    test_support::{READY, config, model, object, pod},
    update_status::JOINED,
};

/// Objects by path, and what was asked for.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    requests: Vec<String>,
    /// Answers to a path, instead of the usual one.
    refusals: BTreeMap<String, (u16, String)>,
}

impl Server {
    fn answer(&mut self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.requests.push(format!("{method} {}", short(path)));
        if let Some((code, message)) = self.refusals.get(path) {
            return (*code, failure(*code, message));
        }
        match (method, body) {
            ("GET", _) => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => (404, failure(404, "not found")),
            },
            ("PATCH", Some(mut patch)) => {
                patch["metadata"]["uid"] = format!("uid of {}", short(path)).into();
                patch["metadata"]["generation"] = 1.into();
                if path.ends_with("/status") {
                    patch["spec"] = json!({"model": "hf://org/name"});
                }
                self.objects.insert(path.to_owned(), patch.clone());
                (200, patch)
            }
            ("POST", Some(body)) => (201, body),
            _ => (404, failure(404, "not found")),
        }
    }
}

fn failure(code: u16, message: &str) -> Value {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// `deployments/m` of `/apis/apps/v1/namespaces/n/deployments/m`.
fn short(path: &str) -> &str {
    path.split_once("/namespaces/n/").map_or(path, |(_, rest)| rest)
}

struct Cluster {
    server: Arc<Mutex<Server>>,
    reconciler: Arc<Reconciler>,
    deployments: Writer<Deployment>,
    budgets: Writer<PodDisruptionBudget>,
    pods: Writer<Pod>,
    _tasks: JoinSet<()>,
}

impl Cluster {
    fn with(model: &FerrumModel) -> Self {
        let server = Arc::new(Mutex::new(Server::default()));
        let answering = Arc::clone(&server);
        let client = Client::new(
            service_fn(move |request: Request<Body>| {
                let server = Arc::clone(&answering);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let body = serde_json::from_slice(&body).ok();
                    let (code, answer) =
                        server
                            .lock()
                            .expect("lock")
                            .answer(parts.method.as_str(), parts.uri.path(), body);
                    let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                    *response.status_mut() = StatusCode::from_u16(code).expect("a code");
                    Ok::<_, Infallible>(response)
                }
            }),
            "n",
        );
        let (models, mut writer) = store();
        writer.apply_watcher_event(&Event::Apply(model.clone()));
        let (deployments, deployment_writer) = store();
        let (budgets, budget_writer) = store();
        let (pods, pod_writer) = store();
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let mut tasks = JoinSet::new();
        let scope = Scope::of_stores(models, deployments, budgets, pods);
        let context = Context::new(Shared {
            events: Events::start(client.clone(), "test", &mut tasks),
            engines: Engines::new("test", metrics.engine_streams()),
            client,
            config: config(),
            metrics,
            scopes: [scope].into(),
            reports: Arc::new(Reports::default()),
        });
        let reconciler = Arc::new(Reconciler {
            context: Arc::new(context),
            scope: 0,
        });
        Self {
            server,
            reconciler,
            deployments: deployment_writer,
            budgets: budget_writer,
            pods: pod_writer,
            _tasks: tasks,
        }
    }

    /// An engine of the model `m` with this status.
    fn has_engine(&mut self, name: &str, status: &str) {
        let mut pod = Pod::clone(&pod(name, status));
        let labels = [
            (names::LABEL_COMPONENT, names::COMPONENT_ENGINE),
            (names::LABEL_MODEL, "m"),
        ];
        pod.metadata.labels = Some(
            labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        );
        self.pods.apply_watcher_event(&Event::Apply(pod));
    }

    async fn reconcile(&self, model: &FerrumModel) -> Result<Vec<String>, ReconcileError> {
        self.server.lock().expect("lock").requests.clear();
        reconcile(Arc::new(model.clone()), Arc::clone(&self.reconciler)).await?;
        Ok(self.server.lock().expect("lock").requests.clone())
    }

    fn has(&self, path: &str, object: Value) {
        self.server
            .lock()
            .expect("lock")
            .objects
            .insert(path.to_owned(), object);
    }

    fn refuses(&self, path: &str, code: u16, message: &str) {
        self.server
            .lock()
            .expect("lock")
            .refusals
            .insert(path.to_owned(), (code, message.to_owned()));
    }

    fn condition(&self, kind: &str) -> Value {
        let server = self.server.lock().expect("lock");
        let status =
            &server.objects["/apis/ferrum.dev/v1alpha1/namespaces/n/ferrummodels/m/status"]["status"];
        let conditions = status["conditions"].as_array().expect("conditions");
        conditions
            .iter()
            .find(|condition| condition["type"] == kind)
            .expect(kind)
            .clone()
    }
}

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
