//! `GET /health`: 200 when a token can be made, else 503 with the phase.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;

use crate::app::App;

pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let status = match app.ready() {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let phase = app.phase.borrow().clone();
    (status, Json(phase)).into_response()
}
