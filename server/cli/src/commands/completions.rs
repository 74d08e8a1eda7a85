//! `ferrum completions`: a script that teaches a shell our flags.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum completions bash > ~/.local/share/bash-completion/completions/ferrum
  ferrum completions zsh > \"${fpath[1]}/_ferrum\"
  ferrum completions fish > ~/.config/fish/completions/ferrum.fish")]
pub(crate) struct CompletionsArgs {
    /// Shell to write for
    shell: Shell,
}

/// Writes the script to stdout.
pub(crate) async fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "ferrum", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
