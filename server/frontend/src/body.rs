//! From the bytes of a body to a wire type, or to an error that names the field.

use axum::body::Body;
use bytes::Bytes;
use ferrum_api::{ApiError, ErrorKind};
use futures_util::StreamExt;
use http::{HeaderMap, Request, header};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::app::App;

/// A body over the limit is read on to so many times the limit before it is refused: a client that is still sending
/// does not read an answer.
const DISCARD_FACTOR: usize = 8;

/// A body, and its share of the memory for bodies until the request is validated.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

/// Reads a JSON body within the limits.
///
/// # Errors
/// 400 for a content type that is not JSON or a body that does not arrive, 413 for one over the limit, 429 when too
/// many bodies are being read.
pub(crate) async fn receive(app: &App, request: Request<Body>) -> Result<ReceivedBody, ApiError> {
    let (head, body) = request.into_parts();
    let limit = app.config.max_body_bytes;
    let length: Option<u64> = head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > limit as u64) {
        discard(app, body).await;
        return Err(too_large(limit));
    }
    check_content_type(&head.headers)?;
    let kib = length.map_or(limit, |length| length as usize) / 1024 + 1;
    let share = app.body_budget.clone().acquire_many_owned(kib as u32);
    let Ok(Ok(share)) = timeout(app.config.body_timeout, share).await else {
        let message = "too many large requests are being read";
        return Err(ApiError::new(ErrorKind::Overloaded, message).retry_after(1));
    };
    let bytes = timeout(app.config.body_timeout, collect(app, body))
        .await
        .map_err(|_| {
            let message = format!(
                "the body did not arrive within {} s",
                app.config.body_timeout.as_secs()
            );
            ApiError::new(ErrorKind::InvalidRequest, message).with_code("request_timeout")
        })??;
    Ok(ReceivedBody { bytes, _share: share })
}

/// Reads what a client still sends, within bounds, so that it comes to read the answer.
pub(crate) async fn discard(app: &App, body: Body) {
    let mut left = app.config.max_body_bytes.saturating_mul(DISCARD_FACTOR);
    let mut stream = body.into_data_stream();
    let read = async {
        while let Some(Ok(chunk)) = stream.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whoever is slower than this does not get to read the answer.
    let _ = timeout(app.config.body_timeout, read).await;
}

/// Parses a request.
///
/// # Errors
/// 400: not JSON (code `invalid_json`), or a field that is unknown (`unknown_parameter`), missing
/// (`missing_required_parameter`), given twice (`duplicate_parameter`) or of a wrong type (`invalid_type`), named in
/// `param`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        field_error(&path, error.inner())
    })?;
    json.end().map_err(|error| field_error("", &error))?;
    Ok(value)
}

async fn collect(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let limit = app.config.max_body_bytes;
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            let message = format!("the body broke off: {error}");
            ApiError::new(ErrorKind::InvalidRequest, message).with_code("incomplete_body")
        })?;
        if bytes.len() + chunk.len() > limit {
            discard(app, Body::from_stream(stream)).await;
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorKind::BodyTooLarge,
        format!("the body is larger than {limit} bytes"),
    )
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = value
        .as_deref()
        .and_then(|value| value.split(';').next())
        .unwrap_or("")
        .trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("content-type is `{essence}`: expected application/json");
    Err(ApiError::new(ErrorKind::InvalidRequest, message).with_code("invalid_content_type"))
}

fn field_error(path: &str, error: &serde_json::Error) -> ApiError {
    if error.classify() != Category::Data {
        let message = format!("the body is not valid JSON: {error}");
        return ApiError::new(ErrorKind::InvalidRequest, message).with_code("invalid_json");
    }
    let text = error.to_string();
    // The place in the text helps nobody where the path is known.
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    if let Some(name) = quoted_after(text, "unknown field ") {
        return unknown_field(path, name, text);
    }
    if let Some(name) = quoted_after(text, "missing field ") {
        let path = join(path, name);
        let message = format!("`{path}` is missing");
        return ApiError::invalid(path, message).with_code("missing_required_parameter");
    }
    if let Some(name) = quoted_after(text, "duplicate field ") {
        let path = join(path, name);
        let message = format!("`{path}` is given twice");
        return ApiError::invalid(path, message).with_code("duplicate_parameter");
    }
    if path == "." {
        return ApiError::new(ErrorKind::InvalidRequest, format!("the body: {text}"))
            .with_code("invalid_type");
    }
    ApiError::invalid(path, format!("`{path}`: {text}")).with_code("invalid_type")
}

fn unknown_field(path: &str, name: &str, text: &str) -> ApiError {
    let path = join(path, name);
    let known = text.split_once("expected").map_or("", |(_, known)| known);
    let closest = known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
        .filter(|&(similarity, _)| similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = closest.map_or(String::new(), |(_, candidate)| {
        format!("; did you mean `{candidate}`?")
    });
    let message = format!("`{path}` is not a field of this request{hint}");
    ApiError::invalid(path, message).with_code("unknown_parameter")
}

/// `path` with the field `name` at its end, where it may stand already.
fn join(path: &str, name: &str) -> String {
    match path {
        "" | "." => name.to_owned(),
        _ if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

fn quoted_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.strip_prefix('`')?.split('`').next()
}
