//! A frontend and its engine in this process: what `ferrum serve` is, and what `run` and `embed` talk to when no
//! endpoint is named, so that there is one path for chat templates, text and limits.

use std::sync::Arc;

use anyhow::Context as _;
use ferrum_engine::{LaunchConfig, ModelCard, Phase};
use ferrum_frontend::{Frontend, FrontendConfig, FrontendError, FrontendHandle};
use ferrum_sim::SimConfig;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    client::ApiClient,
    engine::{self, PhaseSink},
};

/// A frontend that listens; its engine comes with [`Self::load`].
pub(crate) struct LocalServer {
    /// `http://127.0.0.1:8080`; an address that this machine can reach.
    pub(crate) url: String,
    handle: FrontendHandle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), FrontendError>>,
}

impl LocalServer {
    /// Listens and answers that it is starting.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn bind(config: FrontendConfig) -> anyhow::Result<Self> {
        let frontend = Frontend::bind(config).await?;
        let address = frontend.local_addr();
        let url = match address.ip() {
            ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
            _ => format!("http://{address}"),
        };
        let (handle, stop) = (frontend.handle(), CancellationToken::new());
        let task = tokio::spawn(frontend.run_until(stop.clone().cancelled_owned()));
        Ok(Self {
            url,
            handle,
            stop,
            task,
        })
    }

    /// Tells the frontend's watchers what goes on.
    pub(crate) fn phase_sink(&self) -> PhaseSink {
        let handle = self.handle.clone();
        Arc::new(move |phase| handle.set_phase(phase))
    }

    /// Loads the model of `config` and serves it; phases go to the frontend and to `on_phase`.
    ///
    /// # Errors
    /// Those of [`engine::load`]; the frontend says that the engine failed.
    pub(crate) async fn load(
        &self,
        config: LaunchConfig,
        sim: Option<SimConfig>,
        on_phase: PhaseSink,
    ) -> anyhow::Result<ModelCard> {
        let tell = self.phase_sink();
        let both: PhaseSink = Arc::new(move |phase: Phase| {
            tell(phase.clone());
            on_phase(phase);
        });
        match engine::load(config, sim, both).await {
            Ok(loaded) => {
                self.handle.install(loaded.engine, loaded.tokenizer).await;
                Ok(loaded.card)
            }
            Err(error) => {
                self.handle.set_phase(Phase::Failed {
                    message: crate::exit::describe(&error),
                });
                Err(error)
            }
        }
    }

    /// Lets running requests finish, then ends.
    ///
    /// # Errors
    /// [`FrontendError::Engine`] when the engine failed.
    pub(crate) async fn drain(self) -> anyhow::Result<Result<(), FrontendError>> {
        self.stop.cancel();
        self.task.await.context("the frontend panicked")
    }

    /// Waits until the frontend ends by itself: the engine has failed for good.
    pub(crate) async fn failed(&mut self) -> anyhow::Result<Result<(), FrontendError>> {
        (&mut self.task).await.context("the frontend panicked")
    }
}

/// A model in this process and a client of it.
pub(crate) struct InProcess {
    /// Talks to it.
    pub(crate) client: ApiClient,
    /// The model.
    pub(crate) card: ModelCard,
    _server: LocalServer,
}

impl InProcess {
    /// Loads the model of `config` behind a free port of this machine, with a key that nobody else knows.
    ///
    /// # Errors
    /// Those of [`engine::load`].
    pub(crate) async fn start(config: LaunchConfig, on_phase: PhaseSink) -> anyhow::Result<Self> {
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut frontend = FrontendConfig::new("127.0.0.1", 0);
        frontend.api_key = Some(key.clone());
        let server = LocalServer::bind(frontend).await?;
        let card = server.load(config, None, on_phase).await?;
        let client = ApiClient::new(&server.url, Some(key))?;
        Ok(Self {
            client,
            card,
            _server: server,
        })
    }
}
