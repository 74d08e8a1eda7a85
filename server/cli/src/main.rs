//! `ferrum`: one command line for a laptop, a server and the processes inside of a pod.
//!
//! `main` parses, sets up logging and hands over to one module a command in [`commands`].

mod bench;
mod chat;
mod client;
mod commands;
mod connect;
mod engine;
mod exit;
mod hub;
mod local_server;
mod logging;
mod progress;
mod termination;
mod text;
mod up;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use crate::{commands::Command, logging::LogArgs};

/// A step and the freeing of a model's memory take less.
const DEVICES_PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    up::lifeline::hold();
    let cli = Cli::parse();
    logging::init(&cli.log, cli.command.is_server());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::new(error).context("cannot start")),
    };
    let outcome = runtime.block_on(cli.command.run());
    // A blocking thread may still wait in a read of stdin; nothing that it could do is wanted any more.
    runtime.shutdown_background();
    // Engines end with the tasks that held them; a process that exits while one gives a GPU back may crash.
    if !ferrum_runtime::devices_given_back(DEVICES_PATIENCE) {
        tracing::warn!("a GPU is still in use at the end of the process");
    }
    outcome.unwrap_or_else(|error| exit::report(&error))
}

/// Serve language and embedding models on this machine or on a cluster.
#[derive(Parser)]
#[command(name = "ferrum", version, propagate_version = true, after_help = EXAMPLES)]
#[command(
    disable_help_subcommand = true,
    infer_subcommands = false,
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  ferrum run smollm2:135m                      chat in the terminal
  ferrum run qwen3:0.6b \"Why is the sky blue?\"  one answer
  ferrum serve smollm2:135m --port 8080        an OpenAI endpoint
  ferrum embed minilm:l6 \"a text\" \"another\"    vectors of texts
  ferrum up -f examples/smollm2.yaml           every model of a manifest, behind one router

A MODEL is a short name (smollm2:135m), a hub name (org/name, hf://org/name@revision), a folder or a .gguf file.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a serving engine failed, 130 interrupted.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_line_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
