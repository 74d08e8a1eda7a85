//! What is measured: an engine in this process, or an endpoint.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ferrum_api::{Input, StreamOptions, completions::CompletionRequest, embeddings::EmbeddingRequest};
use ferrum_engine::{
    EmbedRequest, Event, GenerateRequest, SamplingParams, SharedEngine, StepTimes, Task, ValidRequest,
};

use crate::client::ApiClient;

/// Who answers.
#[derive(Clone)]
pub(crate) enum Target {
    /// An engine, without HTTP in between.
    Engine(SharedEngine),
    /// An OpenAI endpoint.
    Http {
        /// Talks to it.
        client: ApiClient,
        /// OpenAI `model`.
        model: String,
    },
}

/// One request, as it went.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When each piece of the answer came, after `sent`; a piece is a token, or over HTTP nearly one.
    pub(crate) pieces: Vec<Duration>,
    /// From `sent` to the end.
    pub(crate) total: Duration,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Of these, from the prefix cache.
    pub(crate) cached_tokens: usize,
    /// Tokens of the answer.
    pub(crate) output_tokens: usize,
}

impl Target {
    /// Where the time of the engine's steps went so far, once it has nothing to do; `None` of an endpoint.
    pub(crate) async fn step_times(&self) -> Option<StepTimes> {
        let Self::Engine(engine) = self else {
            return None;
        };
        // It reports what it has done before it says that nothing is left.
        engine.idle().await;
        let load = *engine.load().borrow();
        Some(load.step_times)
    }

    /// Sends one request of `task` and takes its times; a generation makes exactly `max_tokens`.
    ///
    /// # Errors
    /// Whatever kept it from being answered in full.
    pub(crate) async fn request(
        &self,
        task: Task,
        prompt: Vec<u32>,
        max_tokens: usize,
    ) -> anyhow::Result<Sample> {
        let mut sample = Sample {
            sent: Instant::now(),
            pieces: Vec::with_capacity(max_tokens),
            total: Duration::ZERO,
            prompt_tokens: prompt.len(),
            cached_tokens: 0,
            output_tokens: 0,
        };
        match (self, task) {
            (Self::Engine(engine), Task::Chat) => {
                engine_generate(engine, prompt, max_tokens, &mut sample).await?
            }
            (Self::Engine(engine), Task::Embedding) => engine_embed(engine, prompt).await?,
            (Self::Http { client, model }, Task::Chat) => {
                http_generate(client, generation(model, prompt, max_tokens)?, &mut sample).await?;
            }
            (Self::Http { client, model }, Task::Embedding) => http_embed(client, model, prompt).await?,
        }
        sample.total = sample.sent.elapsed();
        Ok(sample)
    }
}

async fn engine_generate(
    engine: &SharedEngine,
    prompt: Vec<u32>,
    max_tokens: usize,
    sample: &mut Sample,
) -> anyhow::Result<()> {
    let request = GenerateRequest {
        id: "bench".to_owned(),
        prompt,
        max_tokens,
        sampling: SamplingParams::default(),
        stop_token_ids: Vec::new(),
    };
    let mut events = engine.submit(ValidRequest::Generate(request))?;
    while let Some(event) = events.next().await {
        match event {
            Event::Token { .. } => sample.pieces.push(sample.sent.elapsed()),
            Event::Finished { usage, .. } => {
                sample.cached_tokens = usage.cached_tokens;
                sample.output_tokens = usage.completion_tokens;
                return Ok(());
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Started { .. } | Event::Embedding { .. } => {}
        }
    }
    bail!("the engine ended without an answer")
}

async fn engine_embed(engine: &SharedEngine, ids: Vec<u32>) -> anyhow::Result<()> {
    let request = EmbedRequest {
        id: "bench".to_owned(),
        ids,
        dimensions: None,
    };
    let mut events = engine.submit(ValidRequest::Embed(request))?;
    while let Some(event) = events.next().await {
        match event {
            Event::Embedding { .. } => return Ok(()),
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    bail!("the engine ended without an answer")
}

fn generation(model: &str, prompt: Vec<u32>, max_tokens: usize) -> anyhow::Result<CompletionRequest> {
    // Through JSON, as the type has no default: a completion without a model is none.
    let body = serde_json::json!({ "model": model, "prompt": prompt });
    let request: CompletionRequest = serde_json::from_value(body).context("cannot build the request")?;
    Ok(CompletionRequest {
        max_tokens: Some(i64::try_from(max_tokens)?),
        temperature: Some(0.0),
        ignore_eos: Some(true),
        stream: Some(true),
        stream_options: Some(StreamOptions {
            include_usage: Some(true),
            ..StreamOptions::default()
        }),
        ..request
    })
}

async fn http_generate(
    client: &ApiClient,
    request: CompletionRequest,
    sample: &mut Sample,
) -> anyhow::Result<()> {
    let mut stream = client.complete(&request).await?;
    while let Some(chunk) = stream.next().await? {
        if chunk.choices.iter().any(|choice| !choice.text.is_empty()) {
            sample.pieces.push(sample.sent.elapsed());
        }
        if let Some(usage) = chunk.usage {
            sample.cached_tokens =
                usize::try_from(usage.prompt_tokens_details.unwrap_or_default().cached_tokens)?;
            sample.output_tokens = usize::try_from(usage.completion_tokens.unwrap_or(0))?;
        }
    }
    anyhow::ensure!(
        sample.output_tokens > 0,
        "the endpoint tells no usage; it must serve stream_options.include_usage"
    );
    Ok(())
}

async fn http_embed(client: &ApiClient, model: &str, ids: Vec<u32>) -> anyhow::Result<()> {
    let request = EmbeddingRequest {
        model: model.to_owned(),
        input: Input::Ids(ids),
        dimensions: None,
        encoding_format: Some("base64".to_owned()),
        user: None,
    };
    client.embed(&request).await?;
    Ok(())
}
