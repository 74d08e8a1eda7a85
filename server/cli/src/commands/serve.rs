//! `ferrum serve`: one engine behind an OpenAI endpoint.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, builder::BoolishValueParser};
use ferrum_engine::{LaunchConfig, ModelCard, Phase, Task};
use ferrum_frontend::{FrontendConfig, FrontendError};
use ferrum_sim::SimConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{exit, hub::write_atomically, local_server::LocalServer, termination, text::format_count};

/// Serve one model on an OpenAI endpoint
///
/// Listens at once and answers 503 with the phase until a token can be made; /health tells the same. SIGTERM or Ctrl-C
/// lets running requests finish and exits with 0; a second one exits at once with 130. Exits with 1 when the model
/// cannot be loaded and with 3 when the engine fails later.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum serve smollm2:135m
  ferrum serve Qwen/Qwen3-0.6B --served-name chat --host 0.0.0.0 --port 8000 --api-key secret
  ferrum serve ./model.gguf --threads 4 --max-model-len 4096 --kv-cache-memory 1Gi
  ferrum serve any --sim --sim-ttft-ms 50 --sim-tpot-ms 10     a simulation, without weights

Routes: /v1/chat/completions /v1/completions /v1/embeddings /v1/models /health /metrics")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    launch: LaunchConfig,

    /// Key that clients must send (Authorization: Bearer KEY)
    #[arg(long, value_name = "KEY", env = "FERRUM_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Write the address, as http://HOST:PORT, to this file once it listens
    #[arg(long, value_name = "PATH", hide = true)]
    address_file: Option<PathBuf>,

    /// Write why the model cannot be loaded, as JSON with reason and message, to this file
    #[arg(long, value_name = "PATH")]
    termination_log: Option<PathBuf>,

    /// Serve no model: answer as the simulation flags say
    #[arg(long, env = "FERRUM_SIM", value_parser = BoolishValueParser::new(), help_heading = "Simulation")]
    sim: bool,

    #[command(flatten)]
    simulation: SimConfig,
}

/// Serves until a signal, or until the engine fails.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    if let Err(error) = args.launch.validate() {
        let error = exit::UsageError(error.to_string()).into();
        termination::tell(args.termination_log.as_deref(), &error);
        return Err(error);
    }
    let mut shutdown = Shutdown::listen()?;
    let mut server = LocalServer::bind(args.frontend()).await?;
    tracing::info!(url = server.url, "listening");
    if let Some(path) = &args.address_file {
        write_atomically(path, format!("{}\n", server.url).as_bytes())?;
    }
    let sim = args.sim.then_some(args.simulation);
    let loaded = tokio::select! {
        loaded = server.load(args.launch, sim, Arc::new(log_phase)) => loaded,
        () = shutdown.requested() => return finish(server, shutdown).await,
    };
    let card = match loaded {
        Ok(card) => card,
        Err(error) => {
            termination::tell(args.termination_log.as_deref(), &error);
            let code = exit::report(&error);
            server.drain().await?.ok();
            return Ok(code);
        }
    };
    announce(&server.url, &card, args.api_key.is_some())?;
    tokio::select! {
        ended = server.failed() => Ok(told(ended?)),
        () = shutdown.requested() => finish(server, shutdown).await,
    }
}

impl ServeArgs {
    fn frontend(&self) -> FrontendConfig {
        let mut config = FrontendConfig::new(self.launch.host.clone(), self.launch.port);
        config.api_key = self.api_key.clone().filter(|key| !key.is_empty());
        config.drain_timeout = Duration::from_secs(self.launch.drain_timeout_seconds);
        config
    }
}

/// Drains; a second signal ends it at once.
async fn finish(server: LocalServer, mut shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    tracing::info!("draining: running requests finish, new ones are refused; once more exits at once");
    tokio::select! {
        ended = server.drain() => Ok(told(ended?)),
        () = shutdown.requested() => Ok(ExitCode::from(exit::INTERRUPTED)),
    }
}

fn told(ended: Result<(), FrontendError>) -> ExitCode {
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(exit::ENGINE_FAILED)
}

/// Logs what changes; progress within a phase would be a line a tensor.
fn log_phase(phase: Phase) {
    match phase {
        Phase::Fetching {
            done_bytes: 0,
            total_bytes,
        } => tracing::info!(total_bytes, "fetching"),
        Phase::Loading { done: 0, .. } => tracing::info!("loading"),
        Phase::Warming => tracing::info!("warming"),
        _ => {}
    }
}

fn announce(url: &str, card: &ModelCard, has_key: bool) -> io::Result<()> {
    tracing::info!(url, model = card.served_names[0], task = %card.task, "ready");
    let mut out = io::stdout();
    let name = &card.served_names[0];
    let (parameters, weights, length) = (
        format_count(card.num_parameters),
        &card.weights,
        card.max_model_len,
    );
    writeln!(
        out,
        "{name} is ready at {url}/v1 ({parameters} parameters, {weights}, {length} tokens)"
    )?;
    let key = if has_key {
        " -H \"Authorization: Bearer $FERRUM_API_KEY\""
    } else {
        ""
    };
    let (route, body) = match card.task {
        Task::Chat => (
            "chat/completions",
            serde_json::json!({
                "model": name, "stream": true, "messages": [{ "role": "user", "content": "Hello" }]
            }),
        ),
        Task::Embedding => (
            "embeddings",
            serde_json::json!({ "model": name, "input": "Hello" }),
        ),
    };
    writeln!(
        out,
        "  curl -N {url}/v1/{route}{key} -H 'Content-Type: application/json' -d '{body}'"
    )?;
    out.flush()
}

/// SIGTERM and Ctrl-C.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
