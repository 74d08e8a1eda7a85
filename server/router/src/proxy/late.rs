//! A stream whose first event takes long: comments keep the line open.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use ferrum_api::ApiError;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use tokio::time::{Interval, interval};

use super::{
    dispatch::Waiting,
    reply::{self, ReplyBody},
    sse::{self, BoxError},
};

/// Pause between two comments.
const INTERVAL: Duration = Duration::from_secs(3);
/// Longest text of a comment, in characters.
const MAX_COMMENT: usize = 200;

/// What a request will be answered with, some day.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, ApiError>> + Send>>;

/// A stream that has begun with its head only. Another replica may still take over; dropping it gives the request up.
pub(crate) struct LateBody {
    answering: Option<Answering>,
    answer: Option<ReplyBody>,
    /// The answer is no stream: its document becomes the only event.
    is_document: bool,
    comments: Interval,
    waiting: Waiting,
}

/// The head of a stream at once, and the answer behind it when it is there.
pub(crate) fn respond(answering: Answering, waiting: Waiting) -> Response<ReplyBody> {
    let body = LateBody {
        answering: Some(answering),
        answer: None,
        is_document: false,
        comments: interval(INTERVAL),
        waiting,
    };
    let mut response = Response::new(ReplyBody::Late(Box::new(body)));
    *response.status_mut() = StatusCode::OK;
    let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl LateBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(answering) = &mut self.answering {
            let Poll::Ready(answered) = answering.as_mut().poll(cx) else {
                ready!(self.comments.poll_tick(cx));
                return Poll::Ready(Some(Ok(Frame::data(comment(&self.waiting.describe())))));
            };
            self.answering = None;
            let answer = answered.unwrap_or_else(|error| reply::error(&error)).into_body();
            self.is_document = !matches!(answer, ReplyBody::Stream(_));
            self.answer = Some(answer);
        }
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(answer).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) if self.is_document => {
                let document = frame.into_data().unwrap_or_default();
                Some(Ok(Frame::data(sse::event(&document))))
            }
            frame => frame,
        })
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.answering.is_none() && self.answer.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// One line, whatever is in the text.
fn comment(text: &str) -> Bytes {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let line: String = text.chars().take(MAX_COMMENT).map(plain).collect();
    format!(": waiting {line}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_one_line() {
        assert_eq!(comment("a\nb\r\nc"), ": waiting a b  c\n\n");
        assert!(comment(&"x".repeat(1_000)).len() < 220);
    }
}
