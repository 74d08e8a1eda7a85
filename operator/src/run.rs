//! The process: watches always, writes only while it leads.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use kube::{
    Client,
    client::ClientBuilder,
    runtime::{
        controller::{self, applier},
        reflector::ObjectRef,
    },
};
use tokio::{net::TcpListener, task::JoinSet, time::interval};
use tower::util::MapRequestLayer;

use crate::{
    autoscale::{Listener, ModelKey, Reports},
    caches::Scope,
    config::OperatorConfig,
    context::{Context, Shared},
    engines::Engines,
    events::Events,
    lease::Elector,
    metrics::Metrics,
    reconcile::{Reconciler, reconcile, retry},
    server::{self, Told},
};

/// Models that are reconciled at the same time.
const CONCURRENCY: u16 = 16;
/// Pause between two looks for models that are gone.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// Why an operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No kubeconfig and no service account, or one that cannot be read.
    #[error("no access to a cluster: {0}")]
    Access(String),
    /// The address for /metrics and /readyz.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A metric that is defined twice.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The listener for /metrics and /readyz ended.
    #[error("the listener of /metrics and /readyz failed: {0}")]
    Serve(std::io::Error),
}

/// Runs until `stop`; the lease is given back then.
///
/// # Errors
/// See [`OperatorError`]. An API server that cannot be reached is none: it is waited for.
pub async fn run(config: OperatorConfig, stop: impl Future<Output = ()>) -> Result<(), OperatorError> {
    let metrics = Arc::new(Metrics::new().map_err(|error| OperatorError::Metrics(error.to_string()))?);
    let client = connect(&metrics).await?;
    let mut tasks = JoinSet::new();
    let scopes = watch(&client, &config, &metrics, &mut tasks);
    let serving = serve(&config, &metrics, &scopes, &mut tasks).await?;
    let reports = Arc::new(Reports::default());
    tasks.spawn(listener(&client, &config, &metrics, &scopes, &reports).run());
    let mut elector = Elector::new(
        client.clone(),
        &config.lease_namespace,
        &config.lease_name,
        &config.identity,
    );
    let context = Arc::new(Context::new(Shared {
        events: Events::start(client.clone(), &config.identity, &mut tasks),
        engines: Engines::new(&config.identity, metrics.engine_streams()),
        metrics: Arc::clone(&metrics),
        client,
        config,
        scopes,
        reports,
    }));
    tokio::select! {
        () = stop => {}
        ended = serving => return Err(OperatorError::Serve(ended)),
        () = lead(&mut elector, &context) => {}
    }
    metrics.set_leader(false);
    elector.release().await;
    Ok(())
}

/// Waits for the lease, writes while it is held, and waits again. Ends never.
async fn lead(elector: &mut Elector, context: &Arc<Context>) {
    loop {
        elector.acquire().await;
        tracing::info!("leads");
        context.metrics.set_leader(true);
        tokio::select! {
            // First, so that nothing is written once the lease is lost.
            biased;
            () = elector.keep() => {}
            () = reconcile_all(context) => {}
        }
        context.metrics.set_leader(false);
        context.forget_all();
    }
}

/// Reconciles whatever changes, in every scope; dropping it stops all that is under way.
async fn reconcile_all(context: &Arc<Context>) {
    // Half of what exists would look like the loss of the other half.
    for scope in context.scopes.iter() {
        scope.wait_until_synced().await;
    }
    let scopes = context.scopes.iter().enumerate().map(|(index, scope)| {
        scope.trigger_all();
        let reconciler = Arc::new(Reconciler {
            context: Arc::clone(context),
            scope: index,
        });
        let queue = scope
            .triggers
            .stream()
            .map(Ok::<ObjectRef<_>, std::convert::Infallible>);
        let config = controller::Config::default().concurrency(CONCURRENCY);
        let reconcile = |model, this| Box::pin(reconcile(model, this));
        Box::pin(applier(
            reconcile,
            retry,
            reconciler,
            scope.models.clone(),
            queue,
            config,
        ))
    });
    let mut reconciled = stream::select_all(scopes);
    let mut tidy = interval(FORGET_EVERY);
    loop {
        tokio::select! {
            next = reconciled.next() => match next {
                // Failures were logged and are tried again; a model that is gone needs nothing.
                Some(_) => {}
                None => return,
            },
            _ = tidy.tick() => context.forget_gone(),
        }
    }
}

async fn connect(metrics: &Arc<Metrics>) -> Result<Client, OperatorError> {
    let access = |error: &dyn std::error::Error| OperatorError::Access(error.to_string());
    let config = kube::Config::infer().await.map_err(|error| access(&error))?;
    let metrics = Arc::clone(metrics);
    let counted = MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
        metrics.request(&request);
        request
    });
    let builder = ClientBuilder::try_from(config).map_err(|error| access(&error))?;
    Ok(builder.with_layer(&counted).build())
}

fn watch(
    client: &Client,
    config: &OperatorConfig,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Arc<[Scope]> {
    if config.namespaces.is_empty() {
        return [Scope::watch(client, None, metrics, tasks)].into();
    }
    let scopes = config
        .namespaces
        .iter()
        .map(|namespace| Scope::watch(client, Some(namespace), metrics, tasks));
    scopes.collect()
}

/// The routes; the future ends with the listener's error.
async fn serve(
    config: &OperatorConfig,
    metrics: &Arc<Metrics>,
    scopes: &Arc<[Scope]>,
    tasks: &mut JoinSet<()>,
) -> Result<impl Future<Output = std::io::Error> + use<>, OperatorError> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| OperatorError::Listen {
            address: config.listen,
            source,
        })?;
    let told = Told {
        is_synced: Arc::new(AtomicBool::new(false)),
        metrics: Arc::clone(metrics),
        models: scopes.iter().map(|scope| scope.models.clone()).collect(),
    };
    let (is_synced, synced) = (Arc::clone(&told.is_synced), Arc::clone(scopes));
    tasks.spawn(async move {
        for scope in synced.iter() {
            scope.wait_until_synced().await;
        }
        tracing::info!("knows what the cluster holds");
        is_synced.store(true, Ordering::Relaxed);
    });
    Ok(async move {
        match axum::serve(listener, server::routes(told)).await {
            Ok(()) => std::io::Error::other("it ended"),
            Err(error) => error,
        }
    })
}

fn listener(
    client: &Client,
    config: &OperatorConfig,
    metrics: &Metrics,
    scopes: &Arc<[Scope]>,
    reports: &Arc<Reports>,
) -> Listener {
    let scopes = Arc::clone(scopes);
    Listener {
        client: client.clone(),
        namespace: config.lease_namespace.clone(),
        selector: config.router_selector.clone(),
        port: config.router_control_port,
        identity: config.identity.clone(),
        reports: Arc::clone(reports),
        streams: metrics.demand_streams().clone(),
        changed: Arc::new(move |model: &ModelKey| trigger_scaled(&scopes, model)),
    }
}

/// Only a model whose replicas follow the demand has something to do when it changes.
fn trigger_scaled(scopes: &[Scope], (namespace, name): &ModelKey) {
    let key = ObjectRef::new(name).within(namespace);
    for scope in scopes {
        if scope
            .models
            .get(&key)
            .is_some_and(|model| model.spec.autoscaling.is_some())
        {
            scope.triggers.push(key.clone());
        }
    }
}
