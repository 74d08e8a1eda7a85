//! Requests, and what came of them.

use std::{future::Future, time::Duration};

use ferrum_engine::{
    EmbedRequest, EngineError, EngineHandle, Event, EventStream, FinishReason, GenerateRequest,
    SamplingParams, TokenLogprob, Usage, ValidRequest,
};

/// Longer than anything here takes on a busy machine; what exceeds it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A greedy request.
pub fn generate(prompt: impl Into<Vec<u32>>, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        id: "test".to_owned(),
        prompt: prompt.into(),
        max_tokens,
        sampling: SamplingParams::default(),
        stop_token_ids: Vec::new(),
    }
}

pub fn embed(ids: impl Into<Vec<u32>>) -> ValidRequest {
    ValidRequest::Embed(EmbedRequest {
        id: "test".to_owned(),
        ids: ids.into(),
        dimensions: None,
    })
}

/// All that a stream brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub started: Option<usize>,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<TokenLogprob>,
    pub finished: Option<(FinishReason, Usage)>,
    pub failed: Option<EngineError>,
    pub vector: Option<Vec<f32>>,
}

/// Waits for `future`.
///
/// # Panics
/// When it takes too long.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future)
            .await
            .expect("it should not hang")
    })
}

/// Reads a stream to its end.
pub fn collect(mut stream: EventStream) -> Outcome {
    wait(async {
        let mut outcome = Outcome::default();
        while let Some(event) = stream.next().await {
            assert!(
                outcome.finished.is_none() && outcome.failed.is_none(),
                "the last event is the last"
            );
            match event {
                Event::Embedding { vector, usage: _ } => outcome.vector = Some(vector),
                Event::Failed(error) => outcome.failed = Some(error),
                Event::Finished { reason, usage } => outcome.finished = Some((reason, usage)),
                Event::Started { cached_tokens } => {
                    assert!(
                        outcome.started.is_none() && outcome.tokens.is_empty(),
                        "once, and first"
                    );
                    outcome.started = Some(cached_tokens);
                }
                Event::Token { id, logprob } => {
                    outcome.tokens.push(id);
                    outcome.logprobs.extend(logprob);
                }
            }
        }
        outcome
    })
}

/// Submits and reads to the end.
pub fn run(engine: &dyn EngineHandle, request: GenerateRequest) -> Outcome {
    collect(engine.submit(ValidRequest::Generate(request)).expect("taken"))
}

/// Submits; the stream keeps it alive.
pub fn start(engine: &dyn EngineHandle, request: GenerateRequest) -> EventStream {
    engine.submit(ValidRequest::Generate(request)).expect("taken")
}
