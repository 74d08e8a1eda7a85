//! /metrics, /readyz and /livez.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use ferrum_crds::FerrumModel;
use kube::runtime::reflector::Store;

use crate::metrics::Metrics;

/// What the routes tell.
#[derive(Clone)]
pub(crate) struct Told {
    /// Whether every watch has listed once.
    pub(crate) is_synced: Arc<AtomicBool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) models: Arc<[Store<FerrumModel>]>,
}

pub(crate) fn routes(told: Told) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(told)
}

async fn readyz(State(told): State<Told>) -> impl IntoResponse {
    if told.is_synced.load(Ordering::Relaxed) {
        return (StatusCode::OK, "ok\n");
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the first lists are not complete\n",
    )
}

async fn metrics(State(told): State<Told>) -> impl IntoResponse {
    match told.metrics.render(&told.models) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    }
}
