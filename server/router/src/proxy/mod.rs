//! Takes a request to a replica and its answer back: read -> peek -> dispatch (choose, attempt, again) -> reply.

mod attempt;
mod body;
mod dispatch;
mod headers;
mod late;
mod peek;
mod reply;
mod sse;
mod upstream;

use std::{sync::Arc, time::Duration};

use ferrum_api::ApiError;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::timeout;

use self::{attempt::Outgoing, dispatch::Dispatch, late::Answering, peek::Peek};
pub(crate) use self::{
    body::Bodies,
    dispatch::find,
    headers::{X_REQUEST_ID, request_id},
    reply::{ReplyBody, error, full, json},
    upstream::Upstream,
};
use crate::{Context, metrics::Observed};

/// A stream that has not begun so long after the end of the longest wait gets its head and comments, so that nothing
/// between router and client takes the line for dead. Until then a failure still has its status.
const LATE: Duration = Duration::from_secs(10);

/// Answers a request of one of the routes that replicas serve.
///
/// # Errors
/// What the router itself has to say; a replica's errors come back as answers.
pub(crate) async fn forward(
    context: &Arc<Context>,
    request: Request<Incoming>,
    request_id: &HeaderValue,
    observed: &mut Observed,
) -> Result<Response<ReplyBody>, ApiError> {
    let (mut head, body) = request.into_parts();
    let config = &context.config;
    let body = context
        .bodies
        .read(&head.headers, body, config.request_timeout)
        .await?;
    let peek = Peek::parse(&body.bytes)?;
    if config.api_key.is_some() {
        head.headers.remove(header::AUTHORIZATION); // it was for the router
    }
    let outgoing = Outgoing {
        uri: head
            .uri
            .path_and_query()
            .map_or_else(Default::default, |path| path.clone().into()),
        headers: headers::for_upstream(head.headers, request_id),
        body: body.bytes.clone(),
        _budget: body.budget,
    };
    let (dispatch, model) = Dispatch::new(context, outgoing, &peek)?;
    observed.is_for(&model.name);
    if !peek.is_stream() {
        return dispatch.run().await;
    }
    let mut answering: Answering = Box::pin(dispatch.run());
    match timeout(config.queue_timeout + LATE, answering.as_mut()).await {
        Ok(answered) => answered,
        Err(_) => Ok(late::respond(answering)),
    }
}
