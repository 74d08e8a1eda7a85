//! An [`ApiError`] as a response.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use ferrum_api::{ApiError, ErrorKind};
use ferrum_engine::{EngineError, SubmitError};
use http::{HeaderValue, StatusCode, header};

/// A message repeats what the client sent, which may be long.
const MAX_MESSAGE_BYTES: usize = 2000;
const MAX_PARAM_BYTES: usize = 200;

/// Answers with OpenAI's error shape.
pub(crate) struct Refusal(pub(crate) ApiError);

/// Left in the response for the metrics.
#[derive(Clone)]
pub(crate) struct ErrorCode(pub(crate) String);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(mut error) = self;
        shorten(&mut error.message, MAX_MESSAGE_BYTES);
        error
            .param
            .iter_mut()
            .for_each(|param| shorten(param, MAX_PARAM_BYTES));
        let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(error.body())).into_response();
        if let Some(seconds) = error.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if error.kind == ErrorKind::Authentication {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(ErrorCode(metric_code(&error)));
        response
    }
}

/// The label of an error in the metrics: its code, or its type where it has none.
pub(crate) fn metric_code(error: &ApiError) -> String {
    error
        .code
        .clone()
        .unwrap_or_else(|| error.kind.error_type().to_owned())
}

/// What a client hears when the engine does not take a request.
pub(crate) fn submit_error(error: &SubmitError) -> ApiError {
    let message = error.to_string();
    match error {
        SubmitError::Draining => draining(),
        SubmitError::Failed(_) => ApiError::new(ErrorKind::Unavailable, message).with_code("failed"),
        SubmitError::QueueFull { .. } => ApiError::new(ErrorKind::Overloaded, message).retry_after(1),
        SubmitError::TooLarge { .. } => ApiError::new(ErrorKind::ContextLengthExceeded, message),
        SubmitError::WrongTask { .. } => ApiError::invalid("model", message).with_code("wrong_task"),
    }
}

/// What a client hears when the engine breaks a request off.
pub(crate) fn engine_error(error: &EngineError) -> ApiError {
    match error {
        EngineError::Fatal(_) => {
            ApiError::new(ErrorKind::Internal, error.to_string()).with_code("engine_failed")
        }
        EngineError::ShuttingDown => draining(),
    }
}

/// The replica stops; another may take the request.
pub(crate) fn draining() -> ApiError {
    let message = "this replica is shutting down; send the request again";
    ApiError::new(ErrorKind::Unavailable, message)
        .with_code("draining")
        .retry_after(1)
}

/// Cuts `text` at a character's end.
fn shorten(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
        text.push('…');
    }
}
