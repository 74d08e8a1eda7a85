//! A cluster: FerrumModels and engine pods, by watch.
//!
//! ```text
//! watches (one for each kind and namespace) -> store of what was heard last -> snapshot
//! ```
//! The API server is not in the way of any request: while it cannot be reached, the last snapshot stays.

mod objects;
mod store;
mod watches;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::IntCounter;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};

use self::store::Store;
use super::{Endpoints, Snapshots};

/// Pause after a snapshot: a rollout of many models makes few snapshots.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);
/// Longest time for a connection to the API server to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence on a connection to it; a watch is ended by the server before.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the cluster is, and which part of it is served.
#[derive(Clone, Debug, Default)]
pub struct KubernetesConfig {
    /// Namespaces; all of them when empty.
    pub namespaces: Vec<String>,
    /// `http://host:port` of an API server that asks for no identity; absent: KUBECONFIG, else the pod's own account.
    pub api_server: Option<String>,
}

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address given is none.
    #[error("`{0}` is no address of an API server: expected http://host:port")]
    Address(String),
    /// No client can be made of the configuration.
    #[error("cannot make a Kubernetes client: {0}")]
    Client(#[from] kube::Error),
    /// Neither KUBECONFIG nor a pod's account is there, or it is broken.
    #[error("cannot find the cluster: {0}")]
    Infer(#[from] kube::config::InferConfigError),
}

/// What the watches share with whoever makes the snapshots.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    changed: Notify,
    errors: IntCounter,
}

/// Follows the cluster. It need not be reachable yet.
///
/// # Errors
/// See [`ClusterError`].
pub(crate) async fn watch(config: &KubernetesConfig, errors: IntCounter) -> Result<Snapshots, ClusterError> {
    let client = client(config).await?;
    let mut namespaces: Vec<_> = config.namespaces.iter().cloned().map(Some).collect();
    namespaces.sort();
    namespaces.dedup();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    let shared = Arc::new(Shared {
        store: Mutex::new(Store::new(namespaces.len())),
        changed: Notify::new(),
        errors,
    });
    let mut tasks = JoinSet::new();
    for (index, namespace) in namespaces.into_iter().enumerate() {
        tasks.spawn(watches::models(
            client.clone(),
            namespace.clone(),
            index,
            shared.clone(),
        ));
        tasks.spawn(watches::pods(client.clone(), namespace, index, shared.clone()));
    }
    let (sender, snapshots) = watch::channel(None);
    tokio::spawn(publish(shared, tasks, sender));
    Ok(snapshots)
}

async fn client(config: &KubernetesConfig) -> Result<kube::Client, ClusterError> {
    let mut kube = match &config.api_server {
        None => kube::Config::infer().await?,
        Some(url) => {
            let url = url.parse().map_err(|_| ClusterError::Address(url.clone()))?;
            kube::Config::new(url)
        }
    };
    kube.connect_timeout = Some(CONNECT_TIMEOUT);
    kube.read_timeout = Some(READ_TIMEOUT);
    kube.reset_reader_on_write = true;
    Ok(kube::Client::try_from(kube)?)
}

/// Hands a snapshot over after each change, until nobody is interested.
async fn publish(shared: Arc<Shared>, tasks: JoinSet<()>, sender: watch::Sender<Option<Arc<Endpoints>>>) {
    let _watching = tasks;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = shared.changed.notified() => {}
        }
        let snapshot = shared.store().snapshot();
        if let Some(endpoints) = snapshot {
            replace(&sender, endpoints);
        }
        sleep(PUBLISH_PAUSE).await;
    }
}

/// Sends a snapshot unless it says what the last one said.
fn replace(sender: &watch::Sender<Option<Arc<Endpoints>>>, mut endpoints: Endpoints) {
    if let Err(contradiction) = endpoints.check() {
        tracing::error!(contradiction, "the list of replicas stays as it was");
        return;
    }
    sender.send_if_modified(|current| {
        let last = current.as_deref();
        let is_same =
            |last: &Endpoints| last.models == endpoints.models && last.replicas == endpoints.replicas;
        if last.is_some_and(is_same) {
            return false;
        }
        endpoints.generation = last.map_or(1, |last| last.generation + 1);
        *current = Some(Arc::new(std::mem::take(&mut endpoints)));
        true
    });
}

impl Shared {
    /// Nothing in a poisoned lock is half-written: every event is one insertion, removal or replacement.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
