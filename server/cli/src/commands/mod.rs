//! One module a command: its flags (`XArgs`) and what it does (`run`).
//!
//! A new command is one file here and a line in each of the three lists below.

mod bench;
mod completions;
mod embed;
mod list;
mod operator;
mod pull;
mod rm;
mod router;
mod run;
mod serve;
mod status;
mod stop;
mod up;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    Embed(embed::EmbedArgs),
    Bench(bench::BenchArgs),
    Up(up::UpArgs),
    Status(status::StatusArgs),
    Stop(stop::StopArgs),
    Router(router::RouterArgs),
    Operator(operator::OperatorArgs),
    Pull(pull::PullArgs),
    List(list::ListArgs),
    Rm(rm::RmArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Runs the command to its end.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(args).await,
            Self::Serve(args) => serve::run(args).await,
            Self::Embed(args) => embed::run(args).await,
            Self::Bench(args) => bench::run(args).await,
            Self::Up(args) => up::run(args).await,
            Self::Status(args) => status::run(args).await,
            Self::Stop(args) => stop::run(args).await,
            Self::Router(args) => router::run(args).await,
            Self::Operator(args) => operator::run(args).await,
            Self::Pull(args) => pull::run(args).await,
            Self::List(args) => list::run(args).await,
            Self::Rm(args) => rm::run(args).await,
            Self::Completions(args) => completions::run(args).await,
        }
    }

    /// Whether it is a process that others watch: it logs what it does.
    pub(crate) fn is_server(&self) -> bool {
        match self {
            Self::Operator(_) | Self::Router(_) | Self::Serve(_) => true,
            Self::Run(_) | Self::Embed(_) | Self::Bench(_) => false,
            Self::Up(_) | Self::Status(_) | Self::Stop(_) => false,
            Self::Pull(_) | Self::List(_) | Self::Rm(_) | Self::Completions(_) => false,
        }
    }
}
