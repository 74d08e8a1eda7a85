//! Answers on their way to the client: as a stream of server-sent events, or whole.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use ferrum_api::{ApiError, Usage};
use futures_util::stream::unfold;
use http::{HeaderValue, header};

use crate::{
    app::{App, LoadedModel},
    generation::Generation,
    refusal::metric_code,
    sequence::Delta,
    validate::{Delivery, ValidGeneration},
    wire::{Answer, Header, Wire, event},
};

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// Submits a validated request and answers in the shape of `W`. The body owns the engine's streams: a client that
/// leaves drops the body, and with it the work.
///
/// # Errors
/// Whatever goes wrong before the first token.
pub(crate) async fn deliver<W: Wire>(
    app: &Arc<App>,
    model: &LoadedModel,
    mut valid: ValidGeneration,
    header: Header,
) -> Result<Response, ApiError> {
    let logprobs = valid
        .requests
        .iter()
        .any(|request| request.sampling.logprobs.is_some());
    let mut generation = Generation::submit(app, model, &mut valid)?;
    let wire = W::new(header, logprobs);
    match valid.delivery {
        Delivery::Stream { include_usage } => {
            generation.begin(app.config.first_token_wait).await?;
            let total = Total::new(valid.prompt_tokens);
            let stream = EventStream {
                app: Arc::clone(app),
                wire,
                generation: Some(generation),
                begun: vec![false; valid.echo.len()],
                echo: valid.echo,
                ready: VecDeque::new(),
                total,
                include_usage,
            };
            Ok(stream.into_response())
        }
        Delivery::Whole => whole(wire, generation, valid).await,
    }
}

async fn whole<W: Wire>(
    mut wire: W,
    mut generation: Generation,
    valid: ValidGeneration,
) -> Result<Response, ApiError> {
    let mut total = Total::new(valid.prompt_tokens);
    let mut answers: Vec<Answer> = valid
        .echo
        .into_iter()
        .zip(0..)
        .map(|(echo, index)| Answer {
            echo,
            delta: Delta {
                index,
                ..Delta::default()
            },
        })
        .collect();
    while let Some(delta) = generation.next().await {
        let delta = delta?;
        total.add(&delta);
        if let Some(Answer { delta: answer, .. }) = answers.get_mut(delta.index as usize) {
            answer.text.push_str(&delta.text);
            answer.logprobs.extend(delta.logprobs);
            answer.end = delta.end;
        }
    }
    Ok(json_response(wire.whole(answers, total.usage())))
}

/// A body that is JSON already.
pub(crate) fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Tokens of all answers.
struct Total {
    prompt_tokens: usize,
    cached_tokens: usize,
    completion_tokens: usize,
}

impl Total {
    fn new(prompt_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            cached_tokens: 0,
            completion_tokens: 0,
        }
    }

    fn add(&mut self, delta: &Delta) {
        if let Some((_, usage)) = delta.end {
            self.cached_tokens += usage.cached_tokens;
            self.completion_tokens += usage.completion_tokens;
        }
    }

    fn usage(&self) -> Usage {
        // A prompt is counted once, also where its `n` answers each found it in the cache.
        let cached = self.cached_tokens.min(self.prompt_tokens);
        Usage::generation(
            self.prompt_tokens as u64,
            cached as u64,
            self.completion_tokens as u64,
        )
    }
}

/// The server-sent events of one request.
struct EventStream<W> {
    app: Arc<App>,
    wire: W,
    /// `None` once it ended.
    generation: Option<Generation>,
    /// Which answers have had their beginning.
    begun: Vec<bool>,
    echo: Vec<String>,
    /// Events made and not sent.
    ready: VecDeque<Bytes>,
    total: Total,
    include_usage: bool,
}

impl<W: Wire> EventStream<W> {
    fn into_response(self) -> Response {
        let events = unfold(self, async |mut stream| {
            let event = stream.next().await?;
            Some((Ok::<_, Infallible>(event), stream))
        });
        let mut response = Body::from_stream(events).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Asks proxies that buffer by default not to.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let generation = self.generation.as_mut()?;
            let interval = self.app.config.keep_alive_interval;
            match tokio::time::timeout(interval, generation.next()).await {
                Ok(Some(Ok(delta))) => self.take(delta),
                Ok(Some(Err(error))) => {
                    self.app
                        .metrics
                        .errors
                        .with_label_values(&[&metric_code(&error)])
                        .inc();
                    self.ready.push_back(event(&error.body()));
                    self.generation = None;
                }
                Ok(None) => {
                    if self.include_usage {
                        self.ready.push_back(self.wire.usage(self.total.usage()));
                    }
                    self.ready.push_back(DONE);
                    self.generation = None;
                }
                Err(_) => return Some(KEEP_ALIVE),
            }
        }
    }

    fn take(&mut self, delta: Delta) {
        self.total.add(&delta);
        let index = delta.index as usize;
        if let (Some(begun), Some(echo)) = (self.begun.get_mut(index), self.echo.get(index))
            && !std::mem::replace(begun, true)
        {
            self.ready.extend(self.wire.begin(delta.index, echo));
        }
        self.ready.extend(self.wire.piece(delta));
    }
}
