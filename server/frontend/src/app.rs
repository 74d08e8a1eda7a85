//! What all routes share.

use std::{
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use ferrum_api::{ApiError, ErrorKind};
use ferrum_engine::{ModelCard, Phase, SharedEngine, Task};
use tokenizers::Tokenizer;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    FrontendConfig, metrics::Metrics, refusal::draining, telemetry::KvMirror, template::ChatTemplate,
    text::Vocabulary,
};

/// Bodies that may be in memory at a time, in units of the largest one.
const BUFFERED_BODIES: usize = 16;

/// One frontend's state.
pub(crate) struct App {
    pub(crate) config: FrontendConfig,
    pub(crate) metrics: Metrics,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) model: OnceLock<Arc<LoadedModel>>,
    /// Requests to `/v1/*` whose response is not sent to its end.
    pub(crate) in_flight: watch::Sender<usize>,
    /// Set once what runs must end.
    pub(crate) stop: CancellationToken,
    /// Bytes of bodies that may be read now, in KiB.
    pub(crate) body_budget: Arc<Semaphore>,
}

/// The engine and all that is known of its model.
pub(crate) struct LoadedModel {
    pub(crate) engine: SharedEngine,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// `None`: the model has no template. `Some(Err)`: it has one that does not compile.
    pub(crate) template: Option<Result<ChatTemplate, String>>,
    pub(crate) kv_mirror: Arc<KvMirror>,
    /// Seconds since 1970 when it was loaded.
    pub(crate) created: u64,
}

impl App {
    pub(crate) fn new(config: FrontendConfig) -> Self {
        let budget = BUFFERED_BODIES * (config.max_body_bytes / 1024 + 1);
        Self {
            config,
            metrics: Metrics::new(),
            phase: watch::Sender::new(Phase::Starting),
            model: OnceLock::new(),
            in_flight: watch::Sender::new(0),
            stop: CancellationToken::new(),
            body_budget: Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The model, when requests can be taken.
    ///
    /// # Errors
    /// 503 with a code that says why not: `loading`, `draining`, `failed`.
    pub(crate) fn ready(&self) -> Result<&Arc<LoadedModel>, ApiError> {
        let phase = self.phase.borrow().clone();
        match (phase, self.model.get()) {
            (Phase::Ready, Some(model)) => Ok(model),
            (Phase::Draining, _) => Err(draining()),
            (Phase::Failed { message }, _) => {
                let message = format!("the model could not be served: {message}");
                Err(ApiError::new(ErrorKind::Unavailable, message)
                    .with_code("failed")
                    .retry_after(10))
            }
            (phase, _) => {
                let message = format!("the model is not ready yet: {}", describe(&phase));
                Err(ApiError::new(ErrorKind::Unavailable, message)
                    .with_code("loading")
                    .retry_after(1))
            }
        }
    }

    /// The model, when it serves `task` under the name that the client used.
    ///
    /// # Errors
    /// As [`Self::ready`]; 404 naming what is served; 400 when the model has another task.
    pub(crate) fn ready_for(&self, name: &str, task: Task) -> Result<&Arc<LoadedModel>, ApiError> {
        let model = self.ready()?;
        let card = model.card();
        if !card.served_names.iter().any(|served| served == name) {
            return Err(model_not_found(name, card));
        }
        if card.task != task {
            let route = match card.task {
                Task::Chat => "/v1/chat/completions or /v1/completions",
                Task::Embedding => "/v1/embeddings",
            };
            let message = format!("model `{name}` serves the task {}: use {route}", card.task);
            return Err(ApiError::invalid("model", message).with_code("wrong_task"));
        }
        Ok(model)
    }
}

impl LoadedModel {
    /// Gathers what the routes need; may take some 100 ms for a large vocabulary.
    pub(crate) fn new(engine: SharedEngine, tokenizer: Arc<Tokenizer>) -> Self {
        let tokenizer = uncut(tokenizer);
        let vocabulary = Arc::new(Vocabulary::new(&tokenizer, engine.card().vocab_size));
        let template = ChatTemplate::compile(engine.card());
        if let Some(Err(error)) = &template {
            tracing::warn!(%error, "the chat template does not compile; chat requests will be refused");
        }
        let kv_mirror = Arc::new(KvMirror::new(Arc::clone(&vocabulary)));
        Self {
            engine,
            tokenizer,
            vocabulary,
            template,
            kv_mirror,
            created: unix_seconds(),
        }
    }

    /// The model, as its engine says.
    pub(crate) fn card(&self) -> &ModelCard {
        self.engine.card()
    }

    /// What answers call it.
    pub(crate) fn name(&self) -> &str {
        self.card().served_names.first().map_or("model", String::as_str)
    }
}

/// No model of this name, and those that there are.
pub(crate) fn model_not_found(name: &str, card: &ModelCard) -> ApiError {
    let served: Vec<_> = card.served_names.iter().map(|name| format!("`{name}`")).collect();
    let message = format!("no model `{name}`; served here: {}", served.join(", "));
    ApiError::new(ErrorKind::ModelNotFound, message).with_param("model")
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A phase in words.
fn describe(phase: &Phase) -> String {
    match phase {
        Phase::Draining => "shutting down".to_owned(),
        Phase::Failed { message } => message.clone(),
        Phase::Fetching {
            done_bytes,
            total_bytes,
        } => format!("fetched {done_bytes} of {total_bytes} bytes"),
        Phase::Loading { done, total } => format!("loaded {done} of {total} tensors"),
        Phase::Ready => "ready".to_owned(),
        Phase::Starting => "starting".to_owned(),
        Phase::Warming => "making a first token".to_owned(),
    }
}

/// The tokenizer without the cutting and padding that some checkpoints store in it: a text that is too long must
/// be refused, not cut unseen, and an engine pads by itself.
fn uncut(tokenizer: Arc<Tokenizer>) -> Arc<Tokenizer> {
    if tokenizer.get_truncation().is_none() && tokenizer.get_padding().is_none() {
        return tokenizer;
    }
    let mut tokenizer = Arc::unwrap_or_clone(tokenizer);
    tokenizer.with_padding(None);
    // Only setting a truncation can fail.
    let _ = tokenizer.with_truncation(None);
    Arc::new(tokenizer)
}
