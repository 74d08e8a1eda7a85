//! An API server with FerrumModels and pods, which can be made to fail as real ones do.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use ferrum_router::{KubernetesConfig, RouterConfig, Source};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

/// The server and what it holds.
pub struct Cluster {
    pub url: String,
    state: Arc<Shared>,
    /// `None` while it is down. Its own, so that its end closes every socket at once.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<Objects>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    lists: AtomicUsize,
    watches: AtomicUsize,
}

#[derive(Default)]
struct Objects {
    version: u64,
    /// Kind, namespace and name.
    current: BTreeMap<(String, String, String), Value>,
    /// Version, kind and event.
    log: Vec<(u64, String, Value)>,
    /// Changes up to this version are forgotten.
    compacted: u64,
    /// Lists break off after their head.
    breaks_lists: bool,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut cluster = Self {
            url: String::new(),
            state: Arc::default(),
            runtime: None,
        };
        cluster.listen("127.0.0.1:0");
        cluster
    }

    /// The address refuses connections; every watch breaks off.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// It is back, with what it held.
    pub fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        self.listen(&address);
    }

    /// Every watch breaks off; the next ones are served.
    pub fn cut_watches(&self) {
        self.state.cut.send_modify(|count| *count += 1);
    }

    /// The history is gone: a watch from an earlier version must list again.
    pub fn compact(&self) {
        let mut objects = self.objects();
        objects.version += 1;
        objects.compacted = objects.version;
        objects.log.clear();
    }

    pub fn break_lists(&self, breaks: bool) {
        self.objects().breaks_lists = breaks;
    }

    pub fn lists(&self) -> usize {
        self.state.lists.load(Ordering::SeqCst)
    }

    pub fn watches(&self) -> usize {
        self.state.watches.load(Ordering::SeqCst)
    }

    /// Settings of a router that follows it.
    pub fn router_config(&self, namespaces: &[&str]) -> RouterConfig {
        RouterConfig::of(Source::Kubernetes(KubernetesConfig {
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            api_server: Some(self.url.clone()),
        }))
    }

    /// Creates or changes a FerrumModel; `fields` are `spec` and `status`, perhaps more of `metadata`.
    pub fn model(&self, namespace: &str, name: &str, mut fields: Value) {
        fields["apiVersion"] = "ferrum.dev/v1alpha1".into();
        fields["kind"] = "FerrumModel".into();
        self.put("ferrummodels", namespace, name, fields);
    }

    /// Creates or changes a pod of the model `m` that runs at `url`.
    pub fn pod(&self, namespace: &str, name: &str, url: &str) {
        self.put("pods", namespace, name, pod(name, url));
    }

    /// The pod gets its deletionTimestamp.
    pub fn begin_deletion(&self, namespace: &str, name: &str) {
        let key = ("pods".to_owned(), namespace.to_owned(), name.to_owned());
        let mut pod = self.objects().current.get(&key).expect("the pod").clone();
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:10:00Z".into();
        self.put("pods", namespace, name, pod);
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut objects = self.objects();
        objects.version += 1;
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = objects.current.remove(&key).expect("the object");
        object["metadata"]["resourceVersion"] = objects.version.to_string().into();
        objects.log(kind, "DELETED", object);
        self.state.changed.send_replace(objects.version);
    }

    fn put(&self, kind: &str, namespace: &str, name: &str, mut object: Value) {
        let mut objects = self.objects();
        objects.version += 1;
        let version = objects.version;
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let before = objects.current.get(&key).cloned();
        let kept = |field: &str, new: Value| match &before {
            Some(object) => object["metadata"][field].clone(),
            None => new,
        };
        let created = format!("2026-01-01T00:{:02}:{:02}Z", version / 60, version % 60);
        object["metadata"]["name"] = name.into();
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["uid"] = kept("uid", format!("uid-{version}").into());
        object["metadata"]["creationTimestamp"] = kept("creationTimestamp", created.into());
        object["metadata"]["resourceVersion"] = version.to_string().into();
        objects.current.insert(key, object.clone());
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        objects.log(kind, event, object);
        self.state.changed.send_replace(version);
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.state.objects.lock().expect("lock")
    }

    fn listen(&mut self, address: &str) {
        let listener = bind(address);
        self.url = format!("http://{}", listener.local_addr().expect("address"));
        let app = Router::new()
            .route("/api/v1/pods", get(all_pods))
            .route("/api/v1/namespaces/{namespace}/pods", get(pods))
            .route("/apis/ferrum.dev/v1alpha1/ferrummodels", get(all_models))
            .route(
                "/apis/ferrum.dev/v1alpha1/namespaces/{namespace}/ferrummodels",
                get(models),
            )
            .with_state(self.state.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listens");
            let _ = axum::serve(listener, app).await;
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Objects {
    fn log(&mut self, kind: &str, event: &str, object: Value) {
        let event = json!({"type": event, "object": object});
        self.log.push((self.version, kind.to_owned(), event));
    }
}

/// A running pod of the model `m` that has this address.
fn pod(name: &str, url: &str) -> Value {
    let address: std::net::SocketAddr = url.trim_start_matches("http://").parse().expect("address");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {
            "ferrum.dev/model": "m",
            "app.kubernetes.io/component": "engine",
            "app.kubernetes.io/managed-by": "ferrum",
        }},
        "spec": {"containers": [{"name": name, "ports": [{"name": "http", "containerPort": address.port()}]}]},
        "status": {"phase": "Running", "podIP": address.ip().to_string()},
    })
}

/// A port that was just given back may take a moment.
fn bind(address: &str) -> std::net::TcpListener {
    for _ in 0..200 {
        if let Ok(listener) = std::net::TcpListener::bind(address) {
            listener.set_nonblocking(true).expect("non-blocking");
            return listener;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("cannot bind {address}");
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    watch: Option<String>,
    #[serde(default, rename = "resourceVersion")]
    resource_version: Option<String>,
}

type Asked = (State<Arc<Shared>>, Query<Params>);

async fn all_pods(asked: Asked) -> Response {
    answer(asked, "pods", None)
}

async fn pods(Path(namespace): Path<String>, asked: Asked) -> Response {
    answer(asked, "pods", Some(namespace))
}

async fn all_models(asked: Asked) -> Response {
    answer(asked, "ferrummodels", None)
}

async fn models(Path(namespace): Path<String>, asked: Asked) -> Response {
    answer(asked, "ferrummodels", Some(namespace))
}

fn answer((State(shared), Query(params)): Asked, kind: &'static str, namespace: Option<String>) -> Response {
    if params.watch.is_none_or(|watch| watch == "false") {
        return list(&shared, kind, namespace.as_deref());
    }
    let from = params.resource_version.and_then(|version| version.parse().ok());
    events(shared, kind, namespace, from.unwrap_or(0))
}

fn list(shared: &Shared, kind: &str, namespace: Option<&str>) -> Response {
    shared.lists.fetch_add(1, Ordering::SeqCst);
    let objects = shared.objects.lock().expect("lock");
    if objects.breaks_lists {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let items: Vec<_> = objects
        .current
        .iter()
        .filter(|((of, within, _), _)| of == kind && namespace.is_none_or(|namespace| namespace == within))
        .map(|(_, object)| object)
        .collect();
    let metadata = json!({"resourceVersion": objects.version.to_string()});
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
    axum::Json(list).into_response()
}

fn events(shared: Arc<Shared>, kind: &'static str, namespace: Option<String>, mut from: u64) -> Response {
    shared.watches.fetch_add(1, Ordering::SeqCst);
    let (mut changed, mut cut) = (shared.changed.subscribe(), shared.cut.subscribe());
    cut.mark_unchanged();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(16);
    tokio::spawn(async move {
        loop {
            changed.mark_unchanged();
            for line in shared.lines_since(&mut from, kind, namespace.as_deref()) {
                if sender.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = cut.changed() => return,
                () = sender.closed() => return,
            }
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)).into_response()
}

impl Shared {
    fn lines_since(&self, from: &mut u64, kind: &str, namespace: Option<&str>) -> Vec<Bytes> {
        let objects = self.objects.lock().expect("lock");
        if *from < objects.compacted {
            *from = u64::MAX;
            let gone = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            }});
            return vec![format!("{gone}\n").into()];
        }
        let new = objects.log.iter().filter(|(version, of, event)| {
            let within = event["object"]["metadata"]["namespace"].as_str();
            version > from && of == kind && namespace.is_none_or(|namespace| within == Some(namespace))
        });
        let lines = new.map(|(_, _, event)| format!("{event}\n").into()).collect();
        *from = (*from).max(objects.version);
        lines
    }
}
