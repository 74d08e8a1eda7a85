//! What happens around every request: its id, its span, the key, the count of what runs.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use tracing::Instrument;

use crate::{
    app::App,
    body::discard,
    refusal::{ErrorCode, Refusal},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken from a client.
const MAX_ID_BYTES: usize = 128;

/// The id of a request, for logs on both sides.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request its id and span, checks the key, counts it, and answers.
pub(crate) async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = %id.0, method = %request.method(), path = %path);
    let header = HeaderValue::from_str(&id.0).ok();
    request.extensions_mut().insert(id);
    let start = Instant::now();
    let mut response = async {
        if !path.starts_with("/v1/") {
            return next.run(request).await;
        }
        let guard = InFlight::new(Arc::clone(&app));
        let response = match check_key(&app, &request) {
            Ok(()) => next.run(request).await,
            Err(error) => {
                discard(&app, request.into_body()).await;
                Refusal(error).into_response()
            }
        };
        response.map(|inner| Body::new(CountedBody { inner, _guard: guard }))
    }
    .instrument(span.clone())
    .await;
    if let Some(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    if let Some(ErrorCode(code)) = response.extensions().get() {
        app.metrics.errors.with_label_values(&[code]).inc();
    }
    let status = response.status().as_u16();
    span.in_scope(|| {
        tracing::debug!(
            status,
            elapsed_ms = start.elapsed().as_millis() as u64,
            "answered"
        )
    });
    response
}

fn request_id(request: &Request) -> RequestId {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= MAX_ID_BYTES => RequestId(id.to_owned()),
        _ => RequestId(uuid::Uuid::new_v4().to_string()),
    }
}

fn check_key(app: &App, request: &Request) -> Result<(), ApiError> {
    let Some(key) = &app.config.api_key else {
        return Ok(());
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let Some(given) = given.and_then(|value| value.strip_prefix(b"Bearer ")) else {
        let message = "no API key: send it as `Authorization: Bearer KEY`";
        return Err(ApiError::new(ErrorKind::Authentication, message));
    };
    if !same(key.as_bytes(), given) {
        return Err(ApiError::new(ErrorKind::Authentication, "the API key is wrong"));
    }
    Ok(())
}

/// Compares in a time that depends on the lengths alone, so that it does not tell how much of a guess is right.
fn same(key: &[u8], given: &[u8]) -> bool {
    let difference = key
        .iter()
        .zip(given)
        .fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0 && key.len() == given.len()
}

/// One request whose response is not sent to its end.
struct InFlight(Arc<App>);

impl InFlight {
    fn new(app: Arc<App>) -> Self {
        app.in_flight.send_modify(|count| *count += 1);
        Self(app)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

/// A body that counts as in flight until it is sent or given up.
struct CountedBody {
    inner: Body,
    _guard: InFlight,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
