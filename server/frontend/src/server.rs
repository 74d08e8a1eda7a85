//! The frontend's life: listen at once, become ready, drain, end.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use ferrum_engine::{Phase, SharedEngine};
use tokenizers::Tokenizer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    FrontendConfig, accept,
    app::{App, LoadedModel},
    routes,
};

/// Time for the last errors to reach the clients once what runs must end.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// HTTP and gRPC face of one engine. It listens from [`Self::bind`] on, and answers as soon as [`Self::run_until`]
/// runs, while the model still loads.
pub struct Frontend {
    listener: TcpListener,
    local_addr: SocketAddr,
    app: Arc<App>,
}

impl Frontend {
    /// Binds the address.
    ///
    /// # Errors
    /// [`FrontendError::Bind`].
    pub async fn bind(config: FrontendConfig) -> Result<Self, FrontendError> {
        let bind_error = |source| FrontendError::Bind {
            host: config.host.clone(),
            port: config.port,
            source,
        };
        let listener = TcpListener::bind((config.host.as_str(), config.port))
            .await
            .map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let app = Arc::new(App::new(config));
        Ok(Self {
            listener,
            local_addr,
            app,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the loading of the model tells its news to.
    pub fn handle(&self) -> FrontendHandle {
        FrontendHandle {
            app: Arc::clone(&self.app),
        }
    }

    /// Serves until `shutdown`, then drains: new requests get 503 `draining`, running ones finish within the drain
    /// timeout, and what is left then ends with an error.
    ///
    /// # Errors
    /// [`FrontendError::Engine`] once the engine has failed for good and its clients were told.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), FrontendError> {
        let close = CancellationToken::new();
        let router = routes::router(Arc::clone(&self.app));
        let serving = accept::serve(
            self.listener,
            router,
            self.app.config.max_connections,
            close.clone(),
        );
        let app = self.app;
        let ending = async {
            let failure = tokio::select! {
                () = shutdown => { drain(&app).await; None }
                reason = engine_failure(&app) => Some(reason),
            };
            // The streams that are left hear why they end, telemetry among them.
            app.stop.cancel();
            let _ = tokio::time::timeout(LAST_WORDS, nothing_in_flight(&app)).await;
            close.cancel();
            failure
        };
        match tokio::join!(ending, serving) {
            (Some(reason), ()) => Err(FrontendError::Engine(reason)),
            (None, ()) => Ok(()),
        }
    }
}

/// Tells a [`Frontend`] how far its model is. Cheap to clone.
#[derive(Clone)]
pub struct FrontendHandle {
    app: Arc<App>,
}

impl FrontendHandle {
    /// What the starting engine is doing. Once it drains, or has failed, it stays so; `Ready` comes with
    /// [`Self::install`].
    pub fn set_phase(&self, phase: Phase) {
        if phase != Phase::Ready {
            change_phase(&self.app, phase);
        }
    }

    /// The engine is loaded and can make a token: from now on requests are taken. Must be called within the tokio
    /// runtime; only the first call counts.
    pub async fn install(&self, engine: SharedEngine, tokenizer: Arc<Tokenizer>) {
        let gathered =
            tokio::task::spawn_blocking(move || Arc::new(LoadedModel::new(engine, tokenizer))).await;
        let Ok(model) = gathered else {
            let message = "the tokenizer could not be read".to_owned();
            return change_phase(&self.app, Phase::Failed { message });
        };
        if self.app.model.set(Arc::clone(&model)).is_err() {
            return;
        }
        tokio::spawn(Arc::clone(&model.kv_mirror).follow(model.engine.kv_events()));
        change_phase(&self.app, Phase::Ready);
    }
}

/// Why a frontend did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The address cannot be listened on.
    #[error("cannot listen on {host}:{port}: {source}")]
    Bind {
        /// As configured.
        host: String,
        /// As configured.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The engine failed for good.
    #[error("the engine failed: {0}")]
    Engine(String),
}

fn change_phase(app: &App, phase: Phase) {
    app.phase.send_if_modified(|current| {
        let last = matches!(current, Phase::Failed { .. })
            || (*current == Phase::Draining && !matches!(phase, Phase::Failed { .. }));
        if last || *current == phase {
            return false;
        }
        *current = phase;
        true
    });
}

/// Refuses what is new and waits for what runs, up to the drain timeout.
async fn drain(app: &App) {
    change_phase(app, Phase::Draining);
    let finished = async {
        if let Some(model) = app.model.get() {
            model.engine.drain();
            model.engine.idle().await;
        }
        nothing_in_flight(app).await;
    };
    if tokio::time::timeout(app.config.drain_timeout, finished)
        .await
        .is_err()
    {
        tracing::warn!(
            running = *app.in_flight.borrow(),
            "requests did not finish within the drain timeout"
        );
    }
}

async fn nothing_in_flight(app: &App) {
    let mut count = app.in_flight.subscribe();
    // The sender lives in `app`.
    let _ = count.wait_for(|&count| count == 0).await;
}

/// Waits until an installed engine fails for good.
async fn engine_failure(app: &App) -> String {
    let mut phase = app.phase.subscribe();
    let _ = phase.wait_for(|_| app.model.get().is_some()).await;
    let Some(model) = app.model.get() else {
        return std::future::pending().await;
    };
    let mut failure = model.engine.failure();
    let reason = match failure.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "its thread ended".to_owned(),
    };
    change_phase(
        app,
        Phase::Failed {
            message: reason.clone(),
        },
    );
    reason
}
