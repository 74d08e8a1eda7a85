//! `ferrum status`: what `ferrum up` runs, or what a router serves.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    client::{ApiClient, RouterHealth},
    text::plain_table,
    up::{
        control::{self, Reply, Request, Status},
        state_dir::{Owner, StateDir},
    },
};

/// Show what `ferrum up` runs, or what a router serves
///
/// Exits with 1 when nothing runs, or when the router does not answer.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum status
  ferrum status --endpoint http://ferrum.example.com
  ferrum status --json | jq -r '.replicas[].state'")]
pub(crate) struct StatusArgs {
    /// State folder of the `ferrum up` [default: $XDG_STATE_HOME/ferrum or ~/.local/state/ferrum]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Ask the router at this address instead, on this machine or in a cluster
    #[arg(long, value_name = "URL", conflicts_with = "state_dir")]
    endpoint: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints a table, or JSON. Fails when nothing runs.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    if let Some(endpoint) = &args.endpoint {
        return of_router(endpoint, args.json).await;
    }
    let state = StateDir::new(args.state_dir)?;
    if !state.exists() || matches!(state.try_lock()?, Owner::Us(_)) {
        bail!("nothing runs in {}", state.root().display());
    }
    let context = || format!("what runs in {} does not answer", state.root().display());
    let mut replies = control::send(&state, &Request::Status)
        .await
        .with_context(context)?;
    let Some(Reply::Status(status)) = replies.next().await? else {
        bail!(context())
    };
    let mut stdout = io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&status)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let url = status.url.as_deref().unwrap_or("the router starts");
    writeln!(stdout, "{url} (process {})\n{}", status.pid, table(&status))?;
    Ok(ExitCode::SUCCESS)
}

async fn of_router(endpoint: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let health = ApiClient::new(endpoint, None)?.router_health().await?;
    let mut stdout = io::stdout().lock();
    if as_json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&health)?)?;
    } else {
        writeln!(stdout, "{endpoint} ({})\n{}", health.status, model_table(&health))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn model_table(health: &RouterHealth) -> comfy_table::Table {
    let mut table = plain_table(&["MODEL", "TASK", "READY", "STATE"]);
    for model in &health.models {
        table.add_row([
            model.served_names.join(", "),
            model.task.clone(),
            format!("{}/{}", model.ready, model.total),
            model.message.clone().unwrap_or_else(|| model.phase.clone()),
        ]);
    }
    table
}

fn table(status: &Status) -> comfy_table::Table {
    let mut table = plain_table(&["REPLICA", "MODEL", "PROCESS", "RESTARTS", "ADDRESS", "STATE"]);
    for replica in &status.replicas {
        table.add_row([
            replica.id.clone(),
            replica.model.clone(),
            replica.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            replica.restarts.to_string(),
            replica.url.clone().unwrap_or_default(),
            replica.state.clone(),
        ]);
    }
    table
}
