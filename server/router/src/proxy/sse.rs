//! A stream of events on its way from a replica to a client.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use ferrum_api::{ApiError, ErrorKind};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::upstream::Connection;
use crate::{
    fleet::{InFlight, Shared},
    metrics::Metrics,
};

/// Longest event that is held back until it is complete; a longer one is passed on as it comes.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// Whatever ends a connection to a client early.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// An answer that arrives, and everything that is held for it. Dropping it closes the connection to the replica and
/// takes the request off its count.
pub(crate) struct Arriving {
    pub(crate) body: Incoming,
    pub(crate) connection: Connection,
    pub(crate) in_flight: InFlight,
    pub(crate) vanished: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Events as they arrive, each as soon as it is complete. A replica that breaks off makes the last event an error.
pub(crate) struct SseBody {
    first: Bytes,
    splitter: EventSplitter,
    arriving: Option<Arriving>,
    /// The last event was `[DONE]` or an error.
    is_complete: bool,
    events: u64,
    model: Arc<Shared>,
    metrics: Arc<Metrics>,
}

/// A stream that ended before its first event.
#[derive(Debug, thiserror::Error)]
#[error("broke off before the first event: {0}")]
pub(crate) struct NoEvent(String);

impl Arriving {
    /// The next piece; `Ok(None)` at the end. A replica that has vanished breaks off.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, String>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Pending => {
                    return match self.vanished.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(Err("it can no longer be reached".to_owned())),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// The same, awaited.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>, String> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The answer was read to its end: keeps the connection for the next request.
    pub(crate) fn finish(self) {
        let replica = self.in_flight.replica();
        replica.upstream.keep(self.connection);
    }
}

impl SseBody {
    /// Waits for the first event, so that a replica that dies before it can still be replaced. Comments before it are
    /// kept and go out with it.
    pub(crate) async fn begin(
        mut arriving: Arriving,
        model: Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, NoEvent> {
        let mut splitter = EventSplitter::default();
        let mut first = BytesMut::new();
        loop {
            let data = arriving.data().await.map_err(NoEvent)?;
            let Some(data) = data else {
                return Err(NoEvent("it ended".to_owned()));
            };
            let events = splitter.push(data);
            if first.is_empty() && has_content(&events) {
                return Ok(Self::new(events, splitter, arriving, (model, metrics)));
            }
            first.extend_from_slice(&events);
            if has_content(&first) || first.len() > MAX_EVENT_BYTES {
                return Ok(Self::new(first.freeze(), splitter, arriving, (model, metrics)));
            }
        }
    }

    /// Whether the replica told of its own failure before anything else.
    pub(crate) fn begins_with_failure(&self) -> bool {
        let is_error = self.first.starts_with(b"data: {\"error\"");
        is_error
            && [&b"\"server_error\""[..], b"\"service_unavailable_error\""]
                .iter()
                .any(|kind| self.first.windows(kind.len()).any(|window| window == *kind))
    }

    fn new(
        first: Bytes,
        splitter: EventSplitter,
        arriving: Arriving,
        (model, metrics): (Arc<Shared>, Arc<Metrics>),
    ) -> Self {
        let mut body = Self {
            first: Bytes::new(),
            splitter,
            arriving: Some(arriving),
            is_complete: false,
            events: 0,
            model,
            metrics,
        };
        body.note(&first);
        body.first = first;
        body
    }

    /// Looks at events that are about to be passed on.
    fn note(&mut self, events: &[u8]) {
        self.events += count_events(events);
        let last = last_event(events);
        self.is_complete = last.starts_with(b"data: [DONE]") || last.starts_with(b"data: {\"error\"");
    }

    /// The replica has said its last word, or will not say any more.
    fn close(&mut self, broken: Option<String>) -> Option<Bytes> {
        let arriving = self.arriving.take()?;
        if self.is_complete {
            if broken.is_none() {
                arriving.finish();
            }
            self.model.saw_completion(self.events);
            return None;
        }
        let reason = broken.unwrap_or_else(|| "it ended without its last event".to_owned());
        let replica = arriving.in_flight.replica();
        tracing::warn!(replica = replica.id, reason, "a stream broke off");
        replica.failed();
        self.metrics.broken_streams.inc();
        Some(error_event(&reason))
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(arriving) = &mut self.arriving else {
                return Poll::Ready(None);
            };
            let broken = match std::task::ready!(arriving.poll_data(cx)) {
                Ok(Some(data)) => {
                    let events = self.splitter.push(data);
                    if events.is_empty() {
                        continue;
                    }
                    self.note(&events);
                    return Poll::Ready(Some(Ok(Frame::data(events))));
                }
                Ok(None) => None,
                Err(reason) => Some(reason),
            };
            return Poll::Ready(self.close(broken).map(|event| Ok(Frame::data(event))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.arriving.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for SseBody {
    fn drop(&mut self) {
        if self.arriving.is_some() && !self.is_complete {
            self.metrics.disconnects.inc();
        }
    }
}

/// Cuts a stream after its complete events, so that a stream that breaks off never leaves half an event behind.
#[derive(Debug, Default)]
struct EventSplitter {
    partial: BytesMut,
}

impl EventSplitter {
    /// The complete events so far; empty while there is none. Usually a piece is whole events: no copy.
    fn push(&mut self, mut data: Bytes) -> Bytes {
        if self.partial.is_empty() {
            let end = events_end(&data);
            self.partial.extend_from_slice(&data[end..]);
            data.truncate(end);
        } else {
            self.partial.extend_from_slice(&data);
            let end = events_end(&self.partial);
            data = self.partial.split_to(end).freeze();
        }
        if self.partial.len() > MAX_EVENT_BYTES {
            let mut all = BytesMut::from(data);
            all.unsplit(self.partial.split());
            data = all.freeze();
        }
        data
    }
}

/// Where the last complete event ends: behind the last blank line.
fn events_end(data: &[u8]) -> usize {
    let ends_line = |end: usize| data[..end].ends_with(b"\n\n") || data[..end].ends_with(b"\n\r\n");
    (1..=data.len()).rev().find(|&end| ends_line(end)).unwrap_or(0)
}

fn last_event(events: &[u8]) -> &[u8] {
    let trimmed = events.trim_ascii_end();
    let start = trimmed
        .windows(2)
        .rposition(|pair| pair == b"\n\n" || pair == b"\r\n");
    trimmed[start.map_or(0, |start| start + 2)..].trim_ascii_start()
}

fn count_events(events: &[u8]) -> u64 {
    let is_data = |line: &&[u8]| line.starts_with(b"data:");
    events.split(|&byte| byte == b'\n').filter(is_data).count() as u64
}

/// Whether there is anything but comments and blank lines.
fn has_content(events: &[u8]) -> bool {
    let mut lines = events.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.any(|line| !line.is_empty() && !line.starts_with(b":"))
}

/// What a client reads where the stream broke off.
fn error_event(reason: &str) -> Bytes {
    let message = format!("the replica broke off its answer: {reason}");
    let error = ApiError::new(ErrorKind::UpstreamFailed, message);
    event(&serde_json::to_vec(&error.body()).unwrap_or_default())
}

/// A document as an event. Line breaks can only stand between the tokens of JSON, where a blank does as well.
pub(crate) fn event(json: &[u8]) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend(
        json.iter()
            .map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }),
    );
    event.extend_from_slice(b"\n\n");
    event.into()
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
