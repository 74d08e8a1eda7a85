//! The second port, for those who run the router: readiness, metrics, and what waits and runs.

mod demand;
mod report;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{extract::State, response::IntoResponse, routing::get};
use ferrum_api::demand::demand_server::DemandServer;
use http::{StatusCode, header};
use tokio::{net::TcpListener, task::JoinHandle};
use tracing::{info, warn};

use self::demand::DemandService;
use crate::Context;

/// A new router is not ready before it has heard of every replica or failed to, but for so long at most: a replica that
/// does not answer must not keep it out of service.
const EXPLORE_TIMEOUT: Duration = Duration::from_secs(3);

/// The listener; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    local_addr: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Readiness {
    context: Arc<Context>,
    was_ready: AtomicBool,
    began: Instant,
}

impl Control {
    /// Answers at once, ready or not.
    pub(crate) fn serve(context: Arc<Context>, (listener, local_addr): (TcpListener, SocketAddr)) -> Self {
        let readiness = Arc::new(Readiness {
            context: context.clone(),
            was_ready: AtomicBool::new(false),
            began: Instant::now(),
        });
        let demand = DemandServer::new(DemandService::new(context));
        let app = axum::Router::new()
            .route("/livez", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(readiness)
            .merge(tonic::service::Routes::new(demand).into_axum_router())
            .fallback(async || StatusCode::NOT_FOUND);
        let task = tokio::spawn(async move {
            info!(%local_addr, "the control port listens");
            if let Err(error) = axum::serve(listener, app).await {
                warn!(%error, "the control port has ended");
            }
        });
        Self { local_addr, task }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// 200 while the router should get traffic.
async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    match readiness.why_not() {
        None => (StatusCode::OK, "ok"),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

async fn metrics(State(readiness): State<Arc<Readiness>>) -> axum::response::Response {
    let context = &readiness.context;
    match context.metrics.render(&context.fleet) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Readiness {
    fn why_not(&self) -> Option<&'static str> {
        if self.context.leaving.is_cancelled() {
            return Some("it shuts down");
        }
        if self.was_ready.load(Ordering::Relaxed) {
            return None;
        }
        let table = self.context.fleet.table();
        if !table.is_loaded {
            return Some("the first list of models has not come");
        }
        let is_explored = table.models.iter().all(|model| model.is_explored());
        if !is_explored && self.began.elapsed() < EXPLORE_TIMEOUT {
            return Some("not every replica was heard of yet");
        }
        self.was_ready.store(true, Ordering::Relaxed);
        None
    }
}
