//! An API server that is a map, for tests of the pipeline.

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
    test_support::{config, pod},
};

/// Objects by path, and what was asked for.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) requests: Vec<String>,
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

pub(crate) struct Cluster {
    pub(crate) server: Arc<Mutex<Server>>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) deployments: Writer<Deployment>,
    pub(crate) budgets: Writer<PodDisruptionBudget>,
    pods: Writer<Pod>,
    _tasks: JoinSet<()>,
}

impl Cluster {
    pub(crate) fn with(model: &FerrumModel) -> Self {
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
    pub(crate) fn has_engine(&mut self, name: &str, status: &str) {
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

    pub(crate) async fn reconcile(&self, model: &FerrumModel) -> Result<Vec<String>, ReconcileError> {
        self.server.lock().expect("lock").requests.clear();
        reconcile(Arc::new(model.clone()), Arc::clone(&self.reconciler)).await?;
        Ok(self.server.lock().expect("lock").requests.clone())
    }

    pub(crate) fn has(&self, path: &str, object: Value) {
        self.server
            .lock()
            .expect("lock")
            .objects
            .insert(path.to_owned(), object);
    }

    pub(crate) fn refuses(&self, path: &str, code: u16, message: &str) {
        self.server
            .lock()
            .expect("lock")
            .refusals
            .insert(path.to_owned(), (code, message.to_owned()));
    }

    pub(crate) fn condition(&self, kind: &str) -> Value {
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
