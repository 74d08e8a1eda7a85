//! One stream to each router pod. A router that cannot be reached delays nothing: its last word is dropped.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ferrum_api::demand::{DemandRequest, demand_client::DemandClient};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use prometheus::IntGauge;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;

use super::reports::{FORGET_AFTER, ModelKey, Reports};

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where to find routers, and whom to tell.
pub(crate) struct Listener {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) selector: String,
    pub(crate) port: u16,
    pub(crate) identity: String,
    pub(crate) reports: Arc<Reports>,
    pub(crate) streams: IntGauge,
    pub(crate) changed: Arc<dyn Fn(&ModelKey) + Send + Sync>,
}

impl Listener {
    /// Listens to every router pod until it is dropped.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let api: Api<Pod> = Api::namespaced(this.client.clone(), &this.namespace);
        let pods = watcher(api, watcher::Config::default().labels(&this.selector)).default_backoff();
        pin_mut!(pods);
        let mut known = Routers {
            listener: this,
            tasks: JoinSet::new(),
            known: HashMap::new(),
        };
        let mut listed = Vec::new();
        while let Some(event) = pods.next().await {
            match event {
                Ok(Event::Apply(pod)) => known.apply(&pod),
                Ok(Event::Delete(pod)) => known.remove(pod.metadata.name.as_deref().unwrap_or_default()),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => listed.push(pod),
                Ok(Event::InitDone) => known.replace(std::mem::take(&mut listed)),
                Err(error) => tracing::warn!(%error, "watch of router pods failed; those known stay"),
            }
        }
    }

    /// Keeps a stream to one router open.
    async fn listen(self: Arc<Self>, router: String, address: String) {
        let mut backoff = BACKOFF.0;
        loop {
            let opened = Instant::now();
            let error = match self.follow(&router, &address).await {
                Ok(()) => "the router ended the stream".to_owned(),
                Err(status) => status.to_string(),
            };
            tracing::debug!(router, error, "demand stream lost");
            if opened.elapsed() > FORGET_AFTER {
                backoff = BACKOFF.0;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn follow(&self, router: &str, address: &str) -> Result<(), tonic::Status> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request = DemandRequest {
            watcher: self.identity.clone(),
        };
        let mut stream = timeout(FORGET_AFTER, DemandClient::new(channel).watch(request))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer"))??
            .into_inner();
        let _counted = Counted::new(&self.streams);
        tracing::info!(router, "hears the demand of a router");
        let mut expected = 1;
        // Silence ends the stream: the router says something every few seconds.
        while let Some(report) = timeout(FORGET_AFTER, stream.message())
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("the router is silent"))??
        {
            if report.sequence != expected {
                return Err(tonic::Status::data_loss(format!(
                    "message {} came instead of {expected}",
                    report.sequence
                )));
            }
            expected += 1;
            for model in self.reports.hear(router, report, Instant::now()) {
                (self.changed)(&model);
            }
        }
        Ok(())
    }
}

/// Router pods and the tasks that listen to them.
struct Routers {
    listener: Arc<Listener>,
    tasks: JoinSet<()>,
    known: HashMap<String, (String, tokio::task::AbortHandle)>,
}

impl Routers {
    fn apply(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(address) = address_of(pod, self.listener.port) else {
            return self.remove(&name);
        };
        if self.known.get(&name).is_some_and(|(known, _)| *known == address) {
            return;
        }
        self.remove(&name);
        let task = Arc::clone(&self.listener).listen(name.clone(), address.clone());
        self.known.insert(name, (address, self.tasks.spawn(task)));
    }

    fn remove(&mut self, name: &str) {
        if let Some((_, task)) = self.known.remove(name) {
            task.abort();
            for model in self.listener.reports.forget(name) {
                (self.listener.changed)(&model);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn replace(&mut self, pods: Vec<Pod>) {
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|name| !pods.iter().any(|pod| pod.metadata.name.as_ref() == Some(name)))
            .cloned()
            .collect();
        gone.iter().for_each(|name| self.remove(name));
        pods.iter().for_each(|pod| self.apply(pod));
    }
}

/// Also of a pod that drains: its last requests still count.
fn address_of(pod: &Pod, port: u16) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let ip = status.pod_ip.as_deref().filter(|ip| !ip.is_empty())?;
    Some(if ip.contains(':') {
        format!("http://[{ip}]:{port}")
    } else {
        format!("http://{ip}:{port}")
    })
}

/// Counts itself in a gauge while it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
