//! One module a command: its flags (`XArgs`) and what it does (`run`).
//!
//! A new command is one file here and a line in each of the three lists below.

mod completions;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Runs the command to its end.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Completions(args) => completions::run(args).await,
        }
    }

    /// Whether it is a process that others watch: it logs what it does.
    pub(crate) fn is_server(&self) -> bool {
        match self {
            Self::Completions(_) => false,
        }
    }
}
