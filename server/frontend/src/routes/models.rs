//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use ferrum_api::models::{Model, ModelList};

use crate::{
    app::{App, LoadedModel, model_not_found},
    refusal::Refusal,
};

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<ModelList>, Refusal> {
    let model = app.ready()?;
    let names = model.card().served_names.iter();
    Ok(Json(ModelList::new(
        names.map(|name| entry(model, name)).collect(),
    )))
}

/// Names may have slashes.
pub(super) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Model>, Refusal> {
    let model = app.ready()?;
    match model.card().served_names.contains(&id) {
        true => Ok(Json(entry(model, &id))),
        false => Err(model_not_found(&id, model.card()).into()),
    }
}

fn entry(model: &LoadedModel, name: &str) -> Model {
    Model {
        id: name.to_owned(),
        object: "model".to_owned(),
        created: model.created,
        owned_by: "ferrum".to_owned(),
        task: model.card().task.to_string(),
        max_model_len: model.card().max_model_len as u64,
    }
}
