//! Logs go to stderr, so that stdout is the command's result and nothing else.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use clap::{ArgAction, Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Flags of every command.
#[derive(Args)]
pub(crate) struct LogArgs {
    /// Log more: -v debug, -vv trace; the variable RUST_LOG (for example ferrum_runtime=debug) wins
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Logging")]
    verbose: u8,

    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT", global = true)]
    #[arg(env = "FERRUM_LOG_FORMAT", hide_env_values = true, help_heading = "Logging")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For a person.
    Human,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// Starts logging. A server tells what it does; other commands only what goes wrong.
pub(crate) fn init(args: &LogArgs, server: bool) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(args, server)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match args.log_format {
        LogFormat::Human => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Our own crates follow `-v`; the HTTP and TLS crates below stay quiet until `-vv`.
fn directives(args: &LogArgs, server: bool) -> String {
    let (others, ours) = match (args.verbose, server) {
        (0, false) => ("error", "warn"),
        (0, true) => ("warn", "info"),
        (1, _) => ("info", "debug"),
        _ => ("debug", "trace"),
    };
    let crates = [
        "ferrum",
        "ferrum_frontend",
        "ferrum_models",
        "ferrum_operator",
        "ferrum_router",
        "ferrum_runtime",
        "ferrum_sim",
    ];
    crates
        .iter()
        .fold(others.to_owned(), |list, name| format!("{list},{name}={ours}"))
}
