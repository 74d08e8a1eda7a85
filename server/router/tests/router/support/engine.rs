//! The real engine server over a simulated engine.

use std::sync::Arc;

use ferrum_engine::{EngineHandle, EngineLoad, LaunchConfig, Task};
use ferrum_frontend::{Frontend, FrontendConfig, FrontendHandle};
use ferrum_sim::{SimConfig, SimEngine, byte_level_tokenizer, launch};
use tokio::{runtime::Runtime, sync::oneshot};

/// An engine of the model `m`.
pub struct SimServer {
    pub url: String,
    pub engine: Arc<SimEngine>,
    stop: Option<oneshot::Sender<()>>,
    /// Its own, so that its end closes every socket at once, as the end of a process does.
    runtime: Option<Runtime>,
}

/// Names of the model that a [`SimServer`] answers to.
pub fn launch_config() -> LaunchConfig {
    LaunchConfig {
        served_names: vec!["m".to_owned()],
        task: Some(Task::Chat),
        ..LaunchConfig::new("sim")
    }
}

impl SimServer {
    pub async fn start(sim: SimConfig) -> Self {
        Self::with(launch_config(), sim).await
    }

    pub async fn with(launch_config: LaunchConfig, sim: SimConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("runtime");
        let (stop, stopped) = oneshot::channel::<()>();
        let starting = runtime.spawn(async move {
            let frontend = Frontend::bind(FrontendConfig::new("127.0.0.1", 0))
                .await
                .expect("binds");
            let url = format!("http://{}", frontend.local_addr());
            let handle: FrontendHandle = frontend.handle();
            tokio::spawn(frontend.run_until(async {
                let _ = stopped.await;
            }));
            let phases = handle.clone();
            let engine = launch(&launch_config, &sim, |phase| phases.set_phase(phase))
                .await
                .expect("launches");
            let tokenizer = Arc::new(byte_level_tokenizer().expect("builds"));
            handle.install(engine.clone(), tokenizer).await;
            (url, engine)
        });
        let (url, engine) = starting.await.expect("starts");
        Self {
            url,
            engine,
            stop: Some(stop),
            runtime: Some(runtime),
        }
    }

    pub fn load(&self) -> EngineLoad {
        *self.engine.load().borrow()
    }

    /// Begins the orderly shutdown, as SIGTERM does.
    pub fn drain(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
