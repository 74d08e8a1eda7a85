//! Takes a request to a replica and its answer back: read -> peek -> dispatch (choose, attempt, again) -> reply.

mod attempt;
mod body;
mod dispatch;
mod headers;
mod peek;
mod reply;
mod sse;
mod upstream;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use self::{attempt::Outgoing, dispatch::Dispatch, peek::Peek};
pub(crate) use self::{
    dispatch::find,
    headers::{X_REQUEST_ID, request_id},
    reply::{ReplyBody, error, full, json},
    upstream::Upstream,
};
use crate::{Context, metrics::Observed};

/// Answers a request of one of the routes that replicas serve.
///
/// # Errors
/// What the router itself has to say; a replica's errors come back as answers.
pub(crate) async fn forward(
    context: &Context,
    request: Request<Incoming>,
    request_id: &HeaderValue,
    observed: &mut Observed,
) -> Result<Response<ReplyBody>, ferrum_api::ApiError> {
    let (head, body) = request.into_parts();
    let config = &context.config;
    let body = body::read(&head.headers, body, config.max_body_bytes, config.request_timeout).await?;
    let peek = Peek::parse(&body)?;
    let outgoing = Outgoing {
        uri: head
            .uri
            .path_and_query()
            .map_or_else(Default::default, |path| path.clone().into()),
        headers: headers::for_upstream(head.headers, request_id),
        body: body.clone(),
    };
    let (dispatch, model) = Dispatch::new(context, outgoing, &peek)?;
    observed.is_for(&model.name);
    dispatch.run().await
}
