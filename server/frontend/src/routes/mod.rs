//! One file a route.

mod chat;
mod completions;
mod embeddings;
mod health;
mod metrics;
mod models;
mod version;

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{any_service, get, post},
};
use ferrum_api::{ApiError, ErrorKind, telemetry::telemetry_server::TelemetryServer};
use http::{Method, Uri};

use crate::{app::App, middleware::around, refusal::Refusal, telemetry::TelemetryService};

/// Bodies smaller than this are validated where they arrive; tokenizing a larger one would hold up other requests.
const INLINE_BODY_BYTES: usize = 32 << 10;

/// Everything that one port serves.
pub(crate) fn router(app: Arc<App>) -> Router {
    let telemetry = TelemetryServer::new(TelemetryService::new(Arc::clone(&app)));
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(version::version))
        .method_not_allowed_fallback(method_not_allowed)
        .route("/ferrum.v1.Telemetry/{method}", any_service(telemetry))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), around))
        .with_state(app)
}

/// Runs the validation of a body of `size` bytes, off the async threads when it may take long.
async fn validated<T: Send + 'static>(
    size: usize,
    validate: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if size < INLINE_BODY_BYTES {
        return validate();
    }
    match tokio::task::spawn_blocking(validate).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::new(
            ErrorKind::Internal,
            format!("validation did not finish: {error}"),
        )),
    }
}

async fn not_found(method: Method, uri: Uri) -> Refusal {
    let message = format!("no route {method} {}", uri.path());
    Refusal(ApiError::new(ErrorKind::NotFound, message).with_code("not_found"))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}", uri.path());
    Refusal(ApiError::new(ErrorKind::MethodNotAllowed, message).with_code("method_not_allowed"))
}
