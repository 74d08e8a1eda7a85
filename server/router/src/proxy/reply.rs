//! What goes back to a client.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use ferrum_api::{ApiError, ErrorKind};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::{
    late::LateBody,
    sse::{Arriving, BoxError, SseBody},
};

/// The body of an answer.
pub(crate) enum ReplyBody {
    /// Complete; empty once taken.
    Full(Bytes),
    /// Events that take long to begin.
    Late(Box<LateBody>),
    /// Larger than what is held back: passed on while it arrives.
    Relay(Box<Relay>),
    /// Events.
    Stream(Box<SseBody>),
}

/// The pieces held back until now, in reverse order, and the rest.
pub(crate) struct Relay {
    pub(crate) held: Vec<Bytes>,
    pub(crate) arriving: Option<Arriving>,
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<ReplyBody> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    full(status, "application/json", Bytes::from(bytes))
}

/// Any document.
pub(crate) fn full(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error in OpenAI's shape.
pub(crate) fn error(error: &ApiError) -> Response<ReplyBody> {
    let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &error.body());
    if let Some(seconds) = error.retry_after_seconds {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.kind == ErrorKind::Authentication {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Late(late) => late.poll_frame(cx),
            Self::Relay(relay) => relay.poll_frame(cx),
            Self::Stream(stream) => Pin::new(stream.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Late(late) => late.is_end_stream(),
            Self::Relay(relay) => relay.held.is_empty() && relay.arriving.is_none(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Late(_) | Self::Relay(_) | Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(bytes) = self.held.pop() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(arriving) = &mut self.arriving else {
            return Poll::Ready(None);
        };
        let result = std::task::ready!(arriving.poll_data(cx));
        Poll::Ready(match result {
            Ok(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Ok(None) => {
                if let Some(arriving) = self.arriving.take() {
                    arriving.finish();
                }
                None
            }
            // The head is gone out already: only closing the connection tells the client.
            Err(reason) => {
                if let Some(arriving) = self.arriving.take() {
                    arriving.in_flight.replica().failed();
                }
                Some(Err(reason.into()))
            }
        })
    }
}
