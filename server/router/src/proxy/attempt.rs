//! One request to one replica.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    headers,
    reply::{Relay, ReplyBody},
    sse::{Arriving, SseBody},
    upstream::UpstreamError,
};
use crate::{
    fleet::{InFlight, RefusalKind, Shared},
    metrics::Metrics,
};

/// What is sent, to whichever replica.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Its share of the memory for bodies, given back when no other replica can need it any more.
    pub(crate) _budget: OwnedSemaphorePermit,
}

/// What an attempt needs besides.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) model: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    /// Answers up to this size are held back until they are complete.
    pub(crate) max_held_bytes: usize,
}

/// How it went. Until an `Answer` nothing was sent to the client.
pub(crate) enum Attempt {
    /// For the client, whether it likes it or not.
    Answer(Response<ReplyBody>),
    /// An answer that tells of the replica's own failure: for the client only if no other replica can do better.
    Doubtful(Response<ReplyBody>),
    /// No answer: no connection, or broken off.
    Failed(String),
    /// Sent away unharmed.
    Refused(RefusalKind),
}

/// Sends the request and waits until the answer is complete, or its first event is there.
pub(crate) async fn attempt(outgoing: &Outgoing, in_flight: InFlight, terms: Terms) -> Attempt {
    let replica = in_flight.replica().clone();
    let vanished = replica.vanished();
    let sent = tokio::select! {
        sent = replica.upstream.send(outgoing.request()) => sent,
        () = vanished.cancelled() => {
            replica.failed();
            return Attempt::Failed("it can no longer be reached".to_owned());
        }
    };
    let (response, connection) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            match &error {
                UpstreamError::BrokenOff(_) => replica.failed(),
                UpstreamError::Connect(_) => replica.not_connected(),
            }
            return Attempt::Failed(error.to_string());
        }
    };
    let (mut head, body) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let arriving = Arriving {
        body,
        connection,
        in_flight,
        vanished: Box::pin(vanished.cancelled_owned()),
    };
    let refusal = match head.status {
        StatusCode::TOO_MANY_REQUESTS => Some(RefusalKind::Full),
        StatusCode::SERVICE_UNAVAILABLE => Some(RefusalKind::NotReady),
        _ => None,
    };
    let outcome = if head.status.is_success() && is_event_stream(&head.headers) {
        stream(head, arriving, terms).await
    } else {
        hold(head, arriving, &terms).await
    };
    match (outcome, refusal) {
        (Attempt::Doubtful(_) | Attempt::Answer(_), Some(kind)) => {
            replica.refused(kind);
            Attempt::Refused(kind)
        }
        (outcome @ (Attempt::Failed(_) | Attempt::Doubtful(_)), _) => {
            replica.failed();
            outcome
        }
        (outcome, _) => {
            replica.succeeded();
            outcome
        }
    }
}

/// A response without its body.
type Head = http::response::Parts;

async fn stream(mut head: Head, arriving: Arriving, terms: Terms) -> Attempt {
    match SseBody::begin(arriving, terms.model, terms.metrics).await {
        Ok(body) => {
            head.headers.remove(header::CONTENT_LENGTH); // an error event may follow
            let is_failure = body.begins_with_failure();
            let response = Response::from_parts(head, ReplyBody::Stream(Box::new(body)));
            if is_failure {
                Attempt::Doubtful(response)
            } else {
                Attempt::Answer(response)
            }
        }
        Err(broken) => Attempt::Failed(broken.to_string()),
    }
}

/// Waits for the whole answer, within bounds: until then another replica can take over.
async fn hold(head: Head, mut arriving: Arriving, terms: &Terms) -> Attempt {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut held = 0;
    loop {
        match arriving.data().await {
            Ok(Some(piece)) => {
                held += piece.len();
                pieces.push(piece);
            }
            Ok(None) => break,
            Err(reason) => return Attempt::Failed(reason),
        }
        if held > terms.max_held_bytes {
            pieces.reverse();
            let relay = Relay {
                held: pieces,
                arriving: Some(arriving),
            };
            return Attempt::Answer(Response::from_parts(head, ReplyBody::Relay(Box::new(relay))));
        }
    }
    arriving.finish();
    let body = joined(pieces, held);
    if let Some(tokens) = completion_tokens(&body) {
        terms.model.saw_completion(tokens);
    }
    let is_server_error = head.status.is_server_error();
    let response = Response::from_parts(head, ReplyBody::Full(body));
    if is_server_error {
        Attempt::Doubtful(response)
    } else {
        Attempt::Answer(response)
    }
}

impl Outgoing {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn joined(mut pieces: Vec<Bytes>, bytes: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(bytes);
    for piece in pieces {
        all.extend_from_slice(&piece);
    }
    all.freeze()
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value.starts_with(b"text/event-stream"))
}

/// `usage.completion_tokens`, which stands near the end of an answer, found without reading the document: only an
/// estimate of later requests depends on it.
fn completion_tokens(body: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"completion_tokens\":";
    let tail = &body[body.len().saturating_sub(1024)..];
    let at = tail.windows(KEY.len()).rposition(|window| window == KEY)?;
    let digits = tail[at + KEY.len()..].trim_ascii_start();
    let end = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_completion_length_is_found_near_the_end() {
        let body = br#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens": 17,"total_tokens":20}}"#;
        assert_eq!(completion_tokens(body), Some(17));
        assert_eq!(completion_tokens(br#"{"usage":{"prompt_tokens":3}}"#), None);
        assert_eq!(completion_tokens(b""), None);
        assert_eq!(completion_tokens(br#"{"completion_tokens":"#), None);
    }
}
