//! `POST /v1/completions`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use ferrum_api::completions::CompletionRequest;
use ferrum_engine::Task;

use super::validated;
use crate::{
    app::App,
    body::{parse, receive},
    deliver::deliver,
    refusal::Refusal,
    validate::validate_completion,
    wire::{CompletionWire, Header},
};

/// receive -> parse -> find the model -> validate -> submit and deliver.
pub(super) async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let body = receive(&app, request).await?;
    let request: CompletionRequest = parse(&body.bytes)?;
    let model = Arc::clone(app.ready_for(&request.model, Task::Chat)?);
    let header = Header::new("cmpl", model.name());
    let (id, loaded) = (header.id.clone(), Arc::clone(&model));
    let valid = validated(body.bytes.len(), move || {
        validate_completion(&loaded, request, &id)
    })
    .await?;
    drop(body);
    Ok(deliver::<CompletionWire>(&app, &model, valid, header).await?)
}
