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
    reply::{self, ReplyBody},
    sse::{self, BoxError},
};

/// Pause between two comments.
const INTERVAL: Duration = Duration::from_secs(10);
const COMMENT: Bytes = Bytes::from_static(b": waiting for the first token\n\n");

/// What a request will be answered with, some day.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, ApiError>> + Send>>;

/// A stream that has begun with its head only. Another replica may still take over; dropping it gives the request up.
pub(crate) struct LateBody {
    answering: Option<Answering>,
    answer: Option<ReplyBody>,
    /// The answer is no stream: its document becomes the only event.
    is_document: bool,
    comments: Interval,
}

/// The head of a stream at once, and the answer behind it when it is there.
pub(crate) fn respond(answering: Answering) -> Response<ReplyBody> {
    let body = LateBody {
        answering: Some(answering),
        answer: None,
        is_document: false,
        comments: interval(INTERVAL),
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
                return Poll::Ready(Some(Ok(Frame::data(COMMENT))));
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

#[cfg(test)]
mod tests {
    use ferrum_api::ErrorKind;
    use http_body_util::BodyExt;

    use super::*;

    async fn text(answering: Answering) -> String {
        let body = respond(answering).into_body();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes);
        String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn comments_come_until_the_answer_does_and_an_error_becomes_an_event() {
        let answering = Box::pin(async {
            tokio::time::sleep(INTERVAL * 2 + Duration::from_secs(1)).await;
            Err(ApiError::new(ErrorKind::Unavailable, "too late"))
        });
        let text = text(answering).await;
        assert_eq!(text.matches(": waiting").count(), 3, "{text}");
        assert!(
            text.contains("\n\ndata: {\"error\":{\"message\":\"too late\""),
            "{text}"
        );
        assert!(text.ends_with("\n\n"));
    }
}
