//! `ferrum stop`: ends what `ferrum up` started.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use tokio::time::sleep;

use crate::up::{
    control::{self, Reply, Request},
    state_dir::{Owner, StateDir},
};

/// Stop what `ferrum up` runs; requests that run may finish
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum stop
  ferrum stop --state-dir /tmp/demo")]
pub(crate) struct StopArgs {
    /// State folder of the `ferrum up` [default: $XDG_STATE_HOME/ferrum or ~/.local/state/ferrum]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Waits until everything is gone.
pub(crate) async fn run(args: StopArgs) -> anyhow::Result<ExitCode> {
    let state = StateDir::new(args.state_dir)?;
    let give_up_at = Instant::now() + Duration::from_secs(10);
    let mut replies = loop {
        if !state.exists() || matches!(state.try_lock()?, Owner::Us(_)) {
            writeln!(io::stderr(), "nothing runs in {}", state.root().display())?;
            return Ok(ExitCode::SUCCESS);
        }
        match control::send(&state, &Request::Stop).await {
            Ok(replies) => break replies,
            Err(_) if Instant::now() < give_up_at => sleep(Duration::from_millis(50)).await,
            Err(error) => bail!("what runs in {} does not answer: {error}", state.root().display()),
        }
    };
    while let Some(reply) = replies.next().await? {
        if let Reply::Line { text } = reply {
            writeln!(io::stderr(), "{text}")?;
        }
    }
    // It has told its last; its lock is free when the process is gone.
    let give_up_at = Instant::now() + Duration::from_secs(10);
    while !matches!(state.try_lock()?, Owner::Us(_)) {
        if Instant::now() > give_up_at {
            bail!(
                "what runs in {} said that it stops and did not end",
                state.root().display()
            );
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(ExitCode::SUCCESS)
}
