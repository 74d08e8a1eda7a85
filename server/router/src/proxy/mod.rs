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

use std::sync::Arc;

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
use crate::{Context, keys::Access, metrics::Observed};

/// A request of a client that was let in.
pub(crate) struct Asked<'a> {
    pub(crate) request: Request<Incoming>,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) access: &'a Access,
}

/// Answers a request of one of the routes that replicas serve.
///
/// # Errors
/// What the router itself has to say; a replica's errors come back as answers.
pub(crate) async fn forward(
    context: &Arc<Context>,
    asked: Asked<'_>,
    observed: &mut Observed,
) -> Result<Response<ReplyBody>, ApiError> {
    let (mut head, body) = asked.request.into_parts();
    let config = &context.config;
    let body = context
        .bodies
        .read(&head.headers, body, config.request_timeout)
        .await?;
    let peek = Peek::parse(&body.bytes)?;
    if context.keys.are_needed() {
        head.headers.remove(header::AUTHORIZATION); // it was for the router
    }
    let outgoing = Outgoing {
        uri: head
            .uri
            .path_and_query()
            .map_or_else(Default::default, |path| path.clone().into()),
        headers: headers::for_upstream(head.headers, asked.request_id),
        body: body.bytes.clone(),
        _budget: body.budget,
    };
    let (dispatch, model) = Dispatch::new(context, outgoing, &peek, asked.access)?;
    observed.is_for(&model.name);
    if !peek.is_stream() {
        return dispatch.run().await;
    }
    let waiting = dispatch.waiting();
    let mut answering: Answering = Box::pin(dispatch.run());
    match timeout(config.comment_after, answering.as_mut()).await {
        Ok(answered) => answered,
        Err(_) => Ok(late::respond(answering, waiting)),
    }
}
