//! The listener and its connections.

use std::{convert::Infallible, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Context, RouterConfig,
    control::Control,
    discovery::{self, Snapshots},
    fleet::Fleet,
    keys::{KeyList, Keys},
    metrics::Metrics,
    policy::LeastTokens,
    proxy::Bodies,
    routes,
    watched_file::{self, WatchError},
};

/// Longest time for the head of a request, and that a connection lies idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A router that listens, and serves once [`Router::serve`] is called.
#[derive(Debug)]
pub struct Router {
    context: Arc<Context>,
    listener: TcpListener,
    local_addr: SocketAddr,
    control: Option<Control>,
    discovery: Discovery,
}

/// Why a router could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list of replicas cannot be watched.
    #[error(transparent)]
    Discovery(#[from] discovery::SourceError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The file of keys is broken, or not there: nobody could ask.
    #[error("{0}")]
    Keys(String),
    /// The folder of the keys cannot be watched.
    #[error(transparent)]
    WatchKeys(#[from] WatchError),
    /// A counter has a wrong name.
    #[error("cannot make the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Binds and serves until `shutdown` is ready, then lets running requests finish.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: RouterConfig, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    Router::bind(config).await?.serve(shutdown).await;
    Ok(())
}

impl Router {
    /// Takes the address and begins to follow the list of replicas; connections wait in the backlog until
    /// [`Self::serve`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(config: RouterConfig) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let mut snapshots = discovery::follow(&config.source, metrics.endpoints_errors.clone()).await?;
        let (listener, local_addr) = listen(config.listen).await?;
        let control_listener = match config.control_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let context = Arc::new(Context {
            fleet: Fleet::new(config.clone()),
            bodies: Bodies::new(config.max_body_bytes, config.max_bodies_bytes),
            keys: keys(&config, &metrics)?,
            config,
            metrics,
            policy: Box::new(LeastTokens),
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
        });
        take_over(&context, &mut snapshots); // a request that comes at once finds its model
        let discovery = Discovery(tokio::spawn(follow(context.clone(), snapshots)));
        let control = control_listener.map(|listener| Control::serve(context.clone(), listener));
        Ok(Self {
            context,
            listener,
            local_addr,
            control,
            discovery,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address of the control listener, where there is one.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(Control::local_addr)
    }

    /// Serves until `shutdown` is ready. Then: not ready, but everything goes on for [`RouterConfig::shutdown_delay`];
    /// after that no new connection, no new request on an old one, and running requests have
    /// [`RouterConfig::drain_timeout`] to finish. The control listener lives until the end.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self {
            context,
            listener,
            local_addr,
            control: _control,
            discovery: _discovery,
        } = self;
        info!(%local_addr, "the router listens");
        let mut shutdown = std::pin::pin!(async {
            shutdown.await;
            context.leaving.cancel();
            sleep(context.config.shutdown_delay).await;
        });
        let mut connections = JoinSet::new();
        let permits = Arc::new(Semaphore::new(context.config.max_connections));
        loop {
            let accepting = async {
                // The semaphore is never closed; without a permit there is nothing to do but wait.
                let permit = permits.clone().acquire_owned().await.ok();
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                accepted = accepting => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let context = context.clone();
                    connections.spawn(async move {
                        serve_connection(context, stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        context.stopping.cancel();
        let drained = timeout(context.config.drain_timeout, async {
            while connections.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            warn!(
                connections = connections.len(),
                "running requests took too long and are cut off"
            );
        }
        connections.shutdown().await;
        info!("the router has stopped");
    }
}

fn keys(config: &RouterConfig, metrics: &Metrics) -> Result<Keys, StartError> {
    let listed = match &config.api_keys_path {
        None => None,
        Some(path) => {
            KeyList::read(path).map_err(|error| StartError::Keys(error.to_string()))?;
            let read = |path: &Path| KeyList::read(path).map_err(|error| error.to_string());
            Some(watched_file::follow(path, read, metrics.keys_errors.clone())?)
        }
    };
    Ok(Keys::new(config.api_key.as_ref(), listed))
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let local_addr = listener.local_addr().map_err(listen_error)?;
    Ok((listener, local_addr))
}

async fn serve_connection(context: Arc<Context>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        warn!(%error, "cannot set TCP_NODELAY");
    }
    let stopping = context.stopping.clone();
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(routes::answer(context, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Takes over every snapshot, until the source is gone.
async fn follow(context: Arc<Context>, mut snapshots: Snapshots) {
    while snapshots.changed().await.is_ok() {
        take_over(&context, &mut snapshots);
    }
}

fn take_over(context: &Context, snapshots: &mut Snapshots) {
    let snapshot = snapshots.borrow_and_update().clone();
    let Some(endpoints) = snapshot else { return };
    context.fleet.apply(&endpoints);
    info!(
        generation = endpoints.generation,
        models = endpoints.models.len(),
        replicas = endpoints.replicas.len(),
        "took over the list of replicas"
    );
}

/// The task that follows the list of replicas; it ends with the router.
#[derive(Debug)]
struct Discovery(JoinHandle<()>);

impl Drop for Discovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}
