//! `ferrum list`: the models of the cache.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use comfy_table::Table;

use crate::{
    hub::{self, CachedModel, HubConfig},
    text::{format_age, format_bytes, plain_table},
};

/// List the models that are on this machine
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum list
  ferrum list --json | jq -r '.[].name'")]
pub(crate) struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints a table, or JSON.
pub(crate) async fn run(args: ListArgs) -> anyhow::Result<ExitCode> {
    let config = HubConfig::from_env();
    let models = hub::cached_models(&config)?;
    let mut stdout = io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&models)?)?;
    } else if models.is_empty() {
        writeln!(
            io::stderr(),
            "no models in {}; get one with: ferrum pull smollm2:135m",
            config.cache.display()
        )?;
    } else {
        writeln!(stdout, "{}", table(&models))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(models: &[CachedModel]) -> Table {
    let mut table = plain_table(&["NAME", "REVISION", "SIZE", "WEIGHTS", "TASK", "MODIFIED"]);
    let now = SystemTime::now();
    for model in models {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(model.modified_unix);
        let weights = model.problem.as_ref().or(model.weights.as_ref());
        table.add_row([
            model.name.clone(),
            short_revision(&model.revision),
            format_bytes(model.size_bytes),
            weights.cloned().unwrap_or_default(),
            model.task.clone().unwrap_or_default(),
            format_age(modified, now),
        ]);
    }
    table
}

/// The first digits of a commit; a branch or tag as it is.
fn short_revision(revision: &str) -> String {
    let is_commit = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit {
        revision[..8].to_owned()
    } else {
        revision.to_owned()
    }
}
