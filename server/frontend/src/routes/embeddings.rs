//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ferrum_api::{
    ApiError, ErrorKind, Usage,
    embeddings::{EmbeddingData, EmbeddingRequest, EmbeddingResponse, EmbeddingVector},
};
use ferrum_engine::{Event, EventStream, Task, ValidRequest};

use super::validated;
use crate::{
    app::App,
    body::{parse, receive},
    deliver::json_response,
    metrics::Outcome,
    refusal::{Refusal, draining, engine_error, submit_error},
    sequence::{Timer, unexpected},
    validate::{Encoding, validate_embedding},
    wire::{Header, json},
};

/// receive -> parse -> find the model -> validate -> submit all -> wait for all.
pub(super) async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let body = receive(&app, request).await?;
    let request: EmbeddingRequest = parse(&body.bytes)?;
    let model = Arc::clone(app.ready_for(&request.model, Task::Embedding)?);
    let Header { id, model: name, .. } = Header::new("embd", model.name());
    let (loaded, max_inputs) = (Arc::clone(&model), app.config.max_inputs);
    let valid = validated(body.bytes.len(), move || {
        validate_embedding(&loaded, request, &id, max_inputs)
    })
    .await?;
    drop(body);
    let submit = |request| {
        let timer = Timer::new(Arc::clone(&app));
        let events = model
            .engine
            .submit(ValidRequest::Embed(request))
            .map_err(|error| submit_error(&error))?;
        Ok::<_, ApiError>((events, timer))
    };
    // Dropped together when the client leaves or one fails.
    let streams: Vec<_> = valid.requests.into_iter().map(submit).collect::<Result<_, _>>()?;
    let mut data = Vec::with_capacity(streams.len());
    let mut prompt_tokens = 0;
    for (index, (events, timer)) in streams.into_iter().enumerate() {
        let (vector, tokens) = tokio::select! {
            biased;
            result = vector(events, timer) => result?,
            () = app.stop.cancelled() => return Err(draining().into()),
        };
        prompt_tokens += tokens as u64;
        let embedding = written(&vector, valid.encoding);
        data.push(EmbeddingData {
            object: "embedding".to_owned(),
            index: index as u32,
            embedding,
        });
    }
    let usage = Usage::embedding(prompt_tokens);
    Ok(json_response(json(&EmbeddingResponse {
        object: "list".to_owned(),
        data,
        model: name,
        usage,
    })))
}

/// The vector of one text, and its tokens.
async fn vector(mut events: EventStream, mut timer: Timer) -> Result<(Vec<f32>, usize), ApiError> {
    let result = loop {
        match events.next().await {
            Some(Event::Started { .. }) => timer.started(),
            Some(Event::Embedding { vector, usage }) => break Ok((vector, usage.prompt_tokens)),
            Some(Event::Failed(error)) => break Err(engine_error(&error)),
            Some(Event::Finished { .. } | Event::Token { .. }) => break Err(unexpected()),
            None => {
                break Err(
                    ApiError::new(ErrorKind::Internal, "the engine is gone").with_code("engine_failed")
                );
            }
        }
    };
    timer.outcome = Some(if result.is_ok() {
        Outcome::Finished
    } else {
        Outcome::Failed
    });
    result
}

fn written(vector: &[f32], encoding: Encoding) -> EmbeddingVector {
    match encoding {
        Encoding::Float => EmbeddingVector::Float(vector.to_vec()),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            EmbeddingVector::Base64(BASE64_STANDARD.encode(bytes))
        }
    }
}
