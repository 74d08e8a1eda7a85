//! `ferrum rm`: a model out of the cache.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;

use crate::{
    exit::UsageError,
    hub::{self, HubConfig, ModelRef},
    text::format_bytes,
};

/// Remove a model from this machine
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum rm smollm2:135m
  ferrum rm Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0")]
pub(crate) struct RmArgs {
    /// Name as `ferrum list` shows it
    model: ModelRef,
}

/// Removes the files and says how much is free now.
pub(crate) async fn run(args: RmArgs) -> anyhow::Result<ExitCode> {
    let title = match &args.model {
        ModelRef::Hub(model) => model.title(),
        ModelRef::Web(model) => model.url().to_owned(),
        ModelRef::Local(_) => bail!(UsageError(format!(
            "{} is not in the cache; delete it yourself",
            args.model
        ))),
    };
    let freed = hub::remove(&args.model, &HubConfig::from_env())?;
    writeln!(
        io::stderr(),
        "removed {title}: {} are free now",
        format_bytes(freed)
    )?;
    Ok(ExitCode::SUCCESS)
}
