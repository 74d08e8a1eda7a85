//! One answer: the engine's events of one sequence as text.

use std::{sync::Arc, time::Instant};

use ferrum_api::{ApiError, ErrorKind, TokenLogprob, TopLogprob};
use ferrum_engine::{Event, EventStream, FinishReason, TokenLogprob as EngineLogprob, Usage};

use crate::{
    app::App,
    metrics::{Outcome, Times},
    refusal::engine_error,
    text::{TextStream, Vocabulary},
};

/// What is new in an answer.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Which answer.
    pub(crate) index: u32,
    /// The next piece of text; may be empty in the last delta.
    pub(crate) text: String,
    /// Of the tokens whose text begins in this delta or before.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// In the last delta.
    pub(crate) end: Option<(FinishReason, Usage)>,
}

/// One answer while it is made. Dropping it cancels the engine's work.
pub(crate) struct Sequence {
    index: u32,
    events: EventStream,
    text: TextStream,
    vocabulary: Arc<Vocabulary>,
    stop_token_ids: Vec<u32>,
    usage: Usage,
    /// Log probabilities not told yet, each with the place where its token's text begins.
    logprobs: Vec<(usize, TokenLogprob)>,
    /// Bytes of text told.
    told_bytes: usize,
    timer: Timer,
}

impl Sequence {
    /// The events of a request with `prompt_tokens` and `stop_token_ids`, as the `index`-th answer.
    pub(crate) fn new(
        index: u32,
        events: EventStream,
        text: TextStream,
        prompt: PromptFacts,
        app: &Arc<App>,
    ) -> Self {
        Self {
            index,
            events,
            text,
            vocabulary: prompt.vocabulary,
            stop_token_ids: prompt.stop_token_ids,
            usage: Usage {
                prompt_tokens: prompt.tokens,
                ..Usage::default()
            },
            logprobs: Vec::new(),
            told_bytes: 0,
            timer: Timer::new(Arc::clone(app)),
        }
    }

    /// Waits for the next delta that says something; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        if self.timer.outcome.is_some() {
            return None;
        }
        loop {
            let result = match self.events.next().await {
                Some(Event::Started { cached_tokens }) => {
                    self.usage.cached_tokens = cached_tokens;
                    self.timer.started();
                    continue;
                }
                Some(Event::Token { id, logprob }) => match self.token(id, logprob) {
                    Some(delta) => Ok(delta),
                    None => continue,
                },
                Some(Event::Finished { reason, usage }) => {
                    let piece = self.text.finish();
                    self.usage = usage;
                    // The last token may complete a stop string with what the decoder held back.
                    Ok(self.end(
                        piece.text,
                        if piece.stopped { FinishReason::Stop } else { reason },
                    ))
                }
                Some(Event::Failed(error)) => Err(engine_error(&error)),
                Some(Event::Embedding { .. }) => Err(unexpected()),
                None => {
                    Err(ApiError::new(ErrorKind::Internal, "the engine is gone").with_code("engine_failed"))
                }
            };
            if result.is_err() {
                self.timer.outcome = Some(Outcome::Failed);
            }
            return Some(result);
        }
    }

    fn token(&mut self, id: u32, logprob: Option<EngineLogprob>) -> Option<Delta> {
        self.timer.token();
        self.usage.completion_tokens += 1;
        if self.stop_token_ids.contains(&id) {
            // It ends the answer and is no part of it.
            return None;
        }
        let start = self.text.seen_bytes();
        let piece = self.text.push(id);
        self.logprobs
            .extend(logprob.map(|logprob| (start, self.described(id, logprob))));
        if piece.stopped {
            return Some(self.end(piece.text, FinishReason::Stop));
        }
        if piece.text.is_empty() {
            return None;
        }
        self.told_bytes += piece.text.len();
        let logprobs = self.take_logprobs();
        Some(Delta {
            index: self.index,
            text: piece.text,
            logprobs,
            end: None,
        })
    }

    fn end(&mut self, text: String, reason: FinishReason) -> Delta {
        self.timer.outcome = Some(Outcome::Finished);
        self.told_bytes += text.len();
        let logprobs = self.take_logprobs();
        Delta {
            index: self.index,
            text,
            logprobs,
            end: Some((reason, self.usage)),
        }
    }

    /// Those of the tokens whose text begins in what was told; one that begins behind it belongs to a text that is
    /// held back or was cut off by a stop string.
    fn take_logprobs(&mut self) -> Vec<TokenLogprob> {
        let told = self.told_bytes;
        let count = self
            .logprobs
            .iter()
            .take_while(|(start, _)| *start < told)
            .count();
        self.logprobs.drain(..count).map(|(_, logprob)| logprob).collect()
    }

    fn described(&self, id: u32, logprob: EngineLogprob) -> TokenLogprob {
        let bytes = self.vocabulary.bytes(id);
        let top_logprobs = logprob.top.into_iter().map(|(id, logprob)| {
            let bytes = self.vocabulary.bytes(id);
            TopLogprob {
                token: lossy(&bytes),
                logprob,
                bytes: Some(bytes),
            }
        });
        TokenLogprob {
            token: lossy(&bytes),
            logprob: logprob.logprob,
            top_logprobs: top_logprobs.collect(),
            bytes: Some(bytes),
        }
    }
}

/// What a [`Sequence`] knows of its request.
pub(crate) struct PromptFacts {
    pub(crate) tokens: usize,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) vocabulary: Arc<Vocabulary>,
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A bug of ours: the engine answered with the events of another task.
pub(crate) fn unexpected() -> ApiError {
    ApiError::new(ErrorKind::Internal, "the engine sent an event of another task").with_code("engine_failed")
}

/// The times of one request; recorded when it is dropped, so that a client that leaves is counted too.
pub(crate) struct Timer {
    app: Arc<App>,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: u32,
    /// `None` until it ended by itself.
    pub(crate) outcome: Option<Outcome>,
}

impl Timer {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
            tokens: 0,
            outcome: None,
        }
    }

    pub(crate) fn started(&mut self) {
        self.started = Some(Instant::now());
    }

    fn token(&mut self) {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.tokens += 1;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let since_submission = |time: Option<Instant>| time.map(|time| time - self.submitted);
        let decode = self.first_token.zip(self.last_token).filter(|_| self.tokens > 1);
        let times = Times {
            queue: since_submission(self.started),
            first_token: since_submission(self.first_token),
            per_output_token: decode.map(|(first, last)| (last - first) / (self.tokens - 1)),
            total: self.submitted.elapsed(),
        };
        self.app
            .metrics
            .record(self.outcome.unwrap_or(Outcome::Cancelled), &times);
    }
}
