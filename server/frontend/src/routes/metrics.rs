//! `GET /metrics`, for Prometheus.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use prometheus::TEXT_FORMAT;

use crate::app::App;

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let load = app.model.get().map(|model| *model.engine.load().borrow());
    let text = app.metrics.render(app.ready().is_ok(), load);
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}
