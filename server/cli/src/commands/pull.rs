//! `ferrum pull`: a model from the hub, a web server or disk, into the cache.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::bail;
use clap::Args;
use ferrum_engine::parse_bytes;
use ferrum_frontend::FrontendConfig;

use crate::{
    engine::{FetchPhases, PhaseSink},
    exit::UsageError,
    hub::{self, HubConfig, ModelRef},
    local_server::LocalServer,
    termination,
};

/// Download a model from the hub or a web server, or import one from disk
///
/// Only the files that are served are taken: safetensors with configuration and tokenizer, or one GGUF file. A download
/// that breaks off goes on where it stopped, and every file of the hub is checked against its SHA-256. Models are kept in
/// the cache that other tools of the hub share (HF_HOME, HF_HUB_CACHE). Prints the path of the model.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum pull smollm2:135m                         a short name
  ferrum pull Qwen/Qwen3-0.6B                      a repository of the hub
  ferrum pull hf://Qwen/Qwen3-0.6B@v1.0            at a branch, tag or commit
  ferrum pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 the GGUF file of one quantization
  ferrum pull https://example.com/model.gguf       a GGUF file of any web server
  ferrum pull smollm2:135m --from ./model.gguf     import, for a machine without a network
  HF_TOKEN=hf_... ferrum pull llama3.2:1b          a model whose licence must be accepted

Variables: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1 (no requests)")]
pub(crate) struct PullArgs {
    /// Short name, org/name[@revision][:QUANTIZATION], hf://org/name[@revision][/file.gguf], or https://host/path.gguf
    model: ModelRef,

    /// Take the files from this folder or .gguf file, not from the hub
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,

    /// Refuse a model whose files have more bytes together, such as 20Gi
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "from")]
    max_bytes: Option<u64>,

    /// Tell how far it is on this address, as an engine does that starts: /health, and gRPC ferrum.v1.Telemetry
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "from")]
    listen: Option<SocketAddr>,

    /// Write why the model cannot be had, as JSON with reason and message, to this file
    #[arg(long, value_name = "PATH")]
    termination_log: Option<PathBuf>,
}

/// Pulls and prints the path.
pub(crate) async fn run(args: PullArgs) -> anyhow::Result<ExitCode> {
    let log = args.termination_log.clone();
    pull(args)
        .await
        .inspect_err(|error| termination::tell(log.as_deref(), error))
}

async fn pull(args: PullArgs) -> anyhow::Result<ExitCode> {
    let config = HubConfig {
        max_bytes: args.max_bytes,
        ..HubConfig::from_env()
    };
    let path = match (&args.model, args.from) {
        (ModelRef::Local(_), _) => bail!(UsageError(format!(
            "{} is on this disk already; expected a short name, org/name or https://host/path.gguf",
            args.model
        ))),
        (ModelRef::Web(_), Some(_)) => bail!(UsageError(
            "--from imports under a name of the hub; a file on this disk is served by its path".to_owned()
        )),
        (ModelRef::Hub(model), Some(from)) => {
            let (model, config) = (model.clone(), config.clone());
            tokio::task::spawn_blocking(move || hub::import(&model, &config, &from)).await??
        }
        (model, None) => {
            let telling = match args.listen {
                Some(address) => Some(LocalServer::bind(frontend(address)).await?),
                None => None,
            };
            let on_phase: PhaseSink = match &telling {
                Some(server) => server.phase_sink(),
                None => Arc::new(|_| ()),
            };
            hub::pull(model, &config, &FetchPhases::new(on_phase)).await?
        }
    };
    writeln!(io::stdout(), "{}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

fn frontend(address: SocketAddr) -> FrontendConfig {
    FrontendConfig::new(address.ip().to_string(), address.port())
}
