//! `ferrum pull`: a model from the hub, or from disk, into the cache.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;

use crate::{
    exit::UsageError,
    hub::{self, HubConfig, ModelRef},
    progress::DownloadProgress,
    termination,
};

/// Download a model from the hub, or import one from disk
///
/// Only the files that are served are taken: safetensors with configuration and tokenizer, or one GGUF file. A download
/// that breaks off goes on where it stopped, and every file is checked against the hub's SHA-256. Models are kept in
/// the cache that other tools of the hub share (HF_HOME, HF_HUB_CACHE). Prints the path of the model.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum pull smollm2:135m                         a short name
  ferrum pull Qwen/Qwen3-0.6B                      a repository of the hub
  ferrum pull hf://Qwen/Qwen3-0.6B@v1.0            at a branch, tag or commit
  ferrum pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 the GGUF file of one quantization
  ferrum pull smollm2:135m --from ./model.gguf     import, for a machine without a network
  HF_TOKEN=hf_... ferrum pull llama3.2:1b          a model whose licence must be accepted

Variables: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1 (no requests)")]
pub(crate) struct PullArgs {
    /// Short name, org/name[@revision][:QUANTIZATION], or hf://org/name[@revision][/file.gguf]
    model: ModelRef,

    /// Take the files from this folder or .gguf file, not from the hub
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,

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
    let ModelRef::Hub(model) = &args.model else {
        bail!(UsageError(format!(
            "{} is on this disk already; expected a short name or org/name",
            args.model
        )));
    };
    let config = HubConfig::from_env();
    let path = match args.from {
        Some(from) => {
            let (model, config) = (model.clone(), config.clone());
            tokio::task::spawn_blocking(move || hub::import(&model, &config, &from)).await??
        }
        None => hub::pull(model, &config, &DownloadProgress::new()).await?,
    };
    writeln!(io::stdout(), "{}", path.display())?;
    Ok(ExitCode::SUCCESS)
}
