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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Mutex};

    use ferrum_api::demand::{
        DemandReport, ModelDemand,
        demand_server::{Demand, DemandServer},
    };
    use futures_util::{Stream, stream};
    use kube::client::Body;

    use super::*;

    /// A router that says what it was given, once.
    struct Router(Vec<DemandReport>);

    #[tonic::async_trait]
    impl Demand for Router {
        type WatchStream = Pin<Box<dyn Stream<Item = Result<DemandReport, tonic::Status>> + Send>>;

        async fn watch(
            &self,
            _: tonic::Request<DemandRequest>,
        ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
            let reports: Vec<_> = self.0.iter().cloned().map(Ok).collect();
            Ok(tonic::Response::new(Box::pin(stream::iter(reports))))
        }
    }

    fn report(sequence: u64, held_requests: u64) -> DemandReport {
        let key = ferrum_api::demand::ModelKey {
            namespace: "n".to_owned(),
            name: "m".to_owned(),
        };
        let model = ModelDemand {
            key: Some(key),
            held_requests,
            ..ModelDemand::default()
        };
        DemandReport {
            sequence,
            models: vec![model],
            gone: Vec::new(),
        }
    }

    async fn follow(reports: Vec<DemandReport>) -> (Result<(), tonic::Status>, Vec<u64>) {
        let listening = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("a port");
        let address = format!("http://{}", listening.local_addr().expect("an address"));
        let incoming = stream::unfold(listening, async |listening| {
            let accepted = listening.accept().await.map(|(connection, _)| connection);
            Some((accepted, listening))
        });
        let serving = tonic::transport::Server::builder().add_service(DemandServer::new(Router(reports)));
        let serving = tokio::spawn(serving.serve_with_incoming(incoming));
        let nobody = tower::service_fn(async |_: http::Request<Body>| {
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        });
        let held = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::new(Reports::default());
        let (told, read) = (Arc::clone(&held), Arc::clone(&known));
        let listener = Listener {
            client: Client::new(nobody, "n"),
            namespace: "n".to_owned(),
            selector: String::new(),
            port: 1,
            identity: "test".to_owned(),
            reports: known,
            streams: IntGauge::new("streams", "for a test").expect("a gauge"),
            changed: Arc::new(move |model| {
                let demand = read.demand(model, Instant::now()).expect("heard");
                told.lock().expect("lock").push(demand.load.held_requests);
            }),
        };
        let ended = listener.follow("router-0", &address).await;
        assert_eq!(listener.streams.get(), 0, "a stream that ended is not counted");
        serving.abort();
        let held = held.lock().expect("lock").clone();
        (ended, held)
    }

    #[tokio::test]
    async fn every_message_is_taken_over_and_told_at_once() {
        let (ended, held) = follow(vec![report(1, 0), report(2, 3)]).await;
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(held, [0, 3]);
    }

    #[tokio::test]
    async fn a_gap_in_the_messages_ends_the_stream() {
        let (ended, held) = follow(vec![report(1, 0), report(3, 9)]).await;
        assert_eq!(ended.expect_err("a gap").code(), tonic::Code::DataLoss);
        assert_eq!(held, [0]);
    }
}
