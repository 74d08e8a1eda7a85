//! What the router answers, path by path.

use std::sync::Arc;

use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;

use crate::{
    Context,
    fleet::Model,
    keys::Access,
    metrics::Observed,
    proxy::{self, Asked, ReplyBody, X_REQUEST_ID},
};

/// A path that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Forward,
    Health,
    Metrics,
    Model(&'a str),
    Models,
}

/// Answers one request, whatever it is.
pub(crate) async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Response<ReplyBody> {
    let request_id = proxy::request_id(request.headers());
    let path = request.uri().path().to_owned();
    let (route, label) = match_path(&path);
    // Where there is a control port, clients need not know what goes on inside.
    let is_hidden = route == Some(Route::Metrics) && context.config.control_listen.is_some();
    let route = route.filter(|_| !is_hidden);
    let mut observed = context.metrics.observe(label);
    let answered = dispatch(&context, route, request, &request_id, &mut observed).await;
    let mut response = answered.unwrap_or_else(|error| proxy::error(&error));
    tracing::debug!(?request_id, path, status = response.status().as_u16(), "answered");
    response.headers_mut().insert(X_REQUEST_ID, request_id);
    if context.leaving.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    observed.finish(response.status());
    response
}

async fn dispatch(
    context: &Arc<Context>,
    route: Option<Route<'_>>,
    request: Request<Incoming>,
    request_id: &HeaderValue,
    observed: &mut Observed,
) -> Result<Response<ReplyBody>, ApiError> {
    let Some(route) = route else {
        let message = format!("no route {} {}", request.method(), request.uri().path());
        return Err(ApiError::new(ErrorKind::NotFound, message));
    };
    let method = request.method();
    let (is_allowed, allowed) = match route {
        Route::Forward => (method == Method::POST, "POST"),
        _ => (method == Method::GET || method == Method::HEAD, "GET"),
    };
    if !is_allowed {
        let message = format!("{method} {}: expected {allowed}", request.uri().path());
        let mut response = proxy::error(&ApiError::new(ErrorKind::MethodNotAllowed, message));
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static(allowed));
        return Ok(response);
    }
    match route {
        Route::Health => return Ok(health(context)),
        Route::Metrics => return metrics(context),
        Route::Forward | Route::Model(_) | Route::Models => {}
    }
    let access = context.keys.authenticate(request.headers())?;
    tracing::debug!(?request_id, key = access.name, "the key is good");
    match route {
        Route::Model(name) => model(context, &access, name),
        Route::Models => Ok(models(context, &access)),
        _ => {
            let asked = Asked {
                request,
                request_id,
                access: &access,
            };
            proxy::forward(context, asked, observed).await
        }
    }
}

/// The route, and its label in metrics.
fn match_path(path: &str) -> (Option<Route<'_>>, &'static str) {
    match path {
        "/health" => (Some(Route::Health), "/health"),
        "/metrics" => (Some(Route::Metrics), "/metrics"),
        "/v1/chat/completions" => (Some(Route::Forward), "/v1/chat/completions"),
        "/v1/completions" => (Some(Route::Forward), "/v1/completions"),
        "/v1/embeddings" => (Some(Route::Forward), "/v1/embeddings"),
        "/v1/models" => (Some(Route::Models), "/v1/models"),
        _ => match path.strip_prefix("/v1/models/") {
            Some(name) if !name.is_empty() => (Some(Route::Model(name)), "/v1/models/{model}"),
            _ => (None, "other"),
        },
    }
}

#[derive(Serialize)]
struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Most tokens of prompt and answer together, once a replica has told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u64>,
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelObject<'a>>,
}

/// Those that the key may use.
fn models(context: &Context, access: &Access) -> Response<ReplyBody> {
    let table = context.fleet.table();
    let names = table.models.iter().flat_map(|model| {
        let names = model.served_names.iter().filter(|name| access.allows(name));
        let objects = names.map(|name| model_object(model, name));
        objects.collect::<Vec<_>>()
    });
    let list = ModelList {
        object: "list",
        data: names.collect(),
    };
    proxy::json(StatusCode::OK, &list)
}

fn model(context: &Context, access: &Access, encoded_name: &str) -> Result<Response<ReplyBody>, ApiError> {
    let name = percent_decoded(encoded_name);
    let model = proxy::find(&context.fleet.table(), &name, access)?;
    Ok(proxy::json(StatusCode::OK, &model_object(&model, &name)))
}

fn model_object<'a>(model: &Model, name: &'a str) -> ModelObject<'a> {
    ModelObject {
        id: name,
        object: "model",
        created: model.shared.created_seconds,
        owned_by: "ferrum",
        max_model_len: model.replicas.iter().find_map(|replica| replica.max_model_len()),
    }
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    models: Vec<ModelHealth<'a>>,
}

#[derive(Serialize)]
struct ModelHealth<'a> {
    name: &'a str,
    served_names: &'a [String],
    task: &'static str,
    ready: usize,
    total: usize,
    phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// 200 while the router can route: it knows its models, and does not stop. Whether a model is ready is in the body,
/// unless there is a control port: then this one is for clients.
fn health(context: &Context) -> Response<ReplyBody> {
    let table = context.fleet.table();
    let is_public = context.config.control_listen.is_some();
    let shown = table.models.iter().filter(|_| !is_public);
    let models = shown.map(|model| ModelHealth {
        name: &model.name,
        served_names: &model.served_names,
        task: model.task.as_str(),
        ready: model.ready(),
        total: model.replicas.len(),
        phase: model.phase_text(),
        message: model.message.as_deref(),
    });
    let (status, word) = if context.leaving.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if table.is_loaded {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    };
    let health = Health {
        status: word,
        models: models.collect(),
    };
    proxy::json(status, &health)
}

fn metrics(context: &Context) -> Result<Response<ReplyBody>, ApiError> {
    let text = context
        .metrics
        .render(&context.fleet)
        .map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(proxy::full(
        StatusCode::OK,
        "text/plain; version=0.0.4",
        text.into(),
    ))
}

/// `org%2Fname` as `org/name`; what is no valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes
            .get(at + 1..at + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = escape.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        assert_eq!(percent_decoded("org%2Fname%3a1"), "org/name:1");
        assert_eq!(percent_decoded("100%"), "100%");
        assert_eq!(percent_decoded("%zz%é"), "%zz%é");
    }
}
