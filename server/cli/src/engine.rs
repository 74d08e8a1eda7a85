//! From the name of a model to an engine in this process that has made a token.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ferrum_engine::{LaunchConfig, ModelCard, Phase, SharedEngine};
use ferrum_sim::SimConfig;
use tokenizers::Tokenizer;

use crate::{
    exit::UsageError,
    hub::{self, FetchEvent, FetchObserver, HubConfig, ModelRef},
    progress::DownloadProgress,
};

/// Bytes that arrive are told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Hears what a starting engine does.
pub(crate) type PhaseSink = Arc<dyn Fn(Phase) + Send + Sync>;

/// An engine that is loaded.
pub(crate) struct LoadedEngine {
    /// The engine.
    pub(crate) engine: SharedEngine,
    /// The model's tokenizer.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// The model.
    pub(crate) card: ModelCard,
}

/// Finds or downloads the model of `config`, loads it and makes a first token; `sim` takes its place.
///
/// # Errors
/// What a person can act on: a reference, the hub, the weights.
pub(crate) async fn load(
    config: LaunchConfig,
    sim: Option<SimConfig>,
    on_phase: PhaseSink,
) -> anyhow::Result<LoadedEngine> {
    config.validate().map_err(|error| UsageError(error.to_string()))?;
    match sim {
        Some(sim) => load_sim(&config, &sim, on_phase).await,
        None => load_model(config, on_phase).await,
    }
}

async fn load_sim(
    config: &LaunchConfig,
    sim: &SimConfig,
    on_phase: PhaseSink,
) -> anyhow::Result<LoadedEngine> {
    let engine: SharedEngine = ferrum_sim::launch(config, sim, move |phase| on_phase(phase)).await?;
    let tokenizer = ferrum_sim::byte_level_tokenizer().map_err(anyhow::Error::from_boxed)?;
    Ok(LoadedEngine {
        card: engine.card().clone(),
        engine,
        tokenizer: Arc::new(tokenizer),
    })
}

async fn load_model(mut config: LaunchConfig, on_phase: PhaseSink) -> anyhow::Result<LoadedEngine> {
    let model: ModelRef = config
        .model
        .parse()
        .map_err(|error: hub::RefError| UsageError(error.to_string()))?;
    let hub = HubConfig::from_env();
    // A model that is here tells whether its heads can be split, whatever the machine has; its launch asks for devices too.
    if config.tensor_parallel == 1 || !hub::is_here(&model, &hub) {
        ferrum_runtime::check_device(&config)?;
    }
    let observer = FetchPhases::new(Arc::clone(&on_phase));
    let resolved = hub::resolve(&model, &hub, &observer).await?;
    if config.served_names.is_empty() {
        config.served_names = resolved.names;
    }
    config.model = resolved.source;
    let path = resolved.path;
    let title = config.served_names.first().unwrap_or(&config.model).clone();
    let launched = tokio::task::spawn_blocking(move || launch(&config, path, on_phase)).await;
    let launched = launched.context("the loading of the model panicked")?;
    launched.with_context(|| format!("cannot load {title}"))
}

fn launch(config: &LaunchConfig, path: PathBuf, on_phase: PhaseSink) -> anyhow::Result<LoadedEngine> {
    let launched = ferrum_runtime::launch(config, &path, move |phase| on_phase(phase))?;
    Ok(LoadedEngine {
        engine: launched.engine,
        tokenizer: launched.tokenizer,
        card: launched.card,
    })
}

/// A download as a phase, and on the terminal.
pub(crate) struct FetchPhases {
    shown: DownloadProgress,
    on_phase: PhaseSink,
    told: Mutex<Option<Instant>>,
}

impl FetchPhases {
    /// Tells `on_phase`.
    pub(crate) fn new(on_phase: PhaseSink) -> Self {
        Self {
            shown: DownloadProgress::new(),
            on_phase,
            told: Mutex::default(),
        }
    }

    /// Whether it is time to tell again.
    fn is_due(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }
}

impl FetchObserver for FetchPhases {
    fn on_event(&self, event: FetchEvent<'_>) {
        let fetching = |done_bytes, total_bytes| Phase::Fetching {
            done_bytes,
            total_bytes,
        };
        match event {
            FetchEvent::Begin {
                done_bytes,
                total_bytes,
                ..
            } => (self.on_phase)(fetching(done_bytes, total_bytes)),
            FetchEvent::Bytes {
                done_bytes,
                total_bytes,
            } if done_bytes == total_bytes || self.is_due() => {
                (self.on_phase)(fetching(done_bytes, total_bytes));
            }
            _ => {}
        }
        self.shown.on_event(event);
    }
}
