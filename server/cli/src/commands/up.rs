//! `ferrum up`: every model of a manifest, behind one router, on this machine.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use ferrum_crds::{ValidatedModel, manifest};
use tokio::{process::Command, sync::mpsc, time::sleep};

use crate::{
    exit::{self, UsageError},
    up::{
        control::{self, Replies, Reply, Request, RouterWish},
        one_machine,
        signals::Signals,
        state_dir::{Lock, Owner, StateDir},
        supervisor::{self, Inputs, Options, Outcome},
        watch_files,
    },
};

/// Serve every model of a manifest behind one endpoint on this machine
#[derive(Args)]
#[command(after_help = "\
Examples:
  ferrum up -f examples/smollm2.yaml            until Ctrl-C
  ferrum up -f models.yaml --watch              and follow changes of the file
  ferrum up -f models.yaml --detach             in the background; ends with: ferrum stop

Where it runs already, a second `ferrum up` hands the manifests over: what changed is started beside what runs, and
replaces it once it is ready.
Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 3 no model could start.")]
pub(crate) struct UpArgs {
    /// Manifest with FerrumModels, YAML or JSON; may be repeated; - is standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Apply the manifests again when a file changes
    #[arg(long, conflicts_with = "detach")]
    watch: bool,

    /// Go into the background once everything is ready or has failed
    #[arg(long)]
    detach: bool,

    /// Folder for logs and state; one `ferrum up` runs in it [default: $XDG_STATE_HOME/ferrum or ~/.local/state/ferrum]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Address of the endpoint [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,

    /// Port of the endpoint; 0 takes a free one [default: 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Key that clients must send
    #[arg(long, value_name = "KEY", env = "FERRUM_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// One more argument for every `ferrum serve`, or as NAME@ARG for those of the model NAME
    #[arg(
        long = "engine-arg",
        value_name = "ARG",
        allow_hyphen_values = true,
        hide = true
    )]
    engine_args: Vec<String>,

    /// This is the process in the background
    #[arg(long, hide = true)]
    in_background: bool,
}

/// Supervises until it is stopped, or hands over to the supervisor that runs.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let reads_stdin = args.files.iter().any(|file| file == Path::new("-"));
    if reads_stdin && (args.watch || args.detach) {
        return Err(UsageError("--watch and --detach need files, not standard input".to_owned()).into());
    }
    let sources = manifest::read_sources(&args.files).map_err(refused)?;
    let models = one_machine::parse(&sources).map_err(refused)?;
    let state = StateDir::new(args.state_dir.clone())?;
    let give_up_at = Instant::now() + Duration::from_secs(10);
    loop {
        let pid = match state.acquire()? {
            Owner::Us(lock) if args.detach => return detach(&args, state, lock).await,
            Owner::Us(lock) => return supervise(args, models, state, lock).await,
            Owner::Other(pid) => pid,
        };
        let request = Request::Apply {
            sources: sources.clone(),
            router: args.router_wish(),
        };
        match control::send(&state, &request).await {
            Ok(replies) if args.watch => {
                drop(replies);
                let message = format!("--watch: {} runs there; stop it first", process(pid));
                return Err(UsageError(message).into());
            }
            Ok(replies) => {
                let folder = state.root().display();
                writeln!(
                    io::stderr(),
                    "{} runs in {folder}: it gets the manifests",
                    process(pid)
                )?;
                return follow(replies).await;
            }
            // It may be about to listen, or about to end.
            Err(_) if Instant::now() < give_up_at => sleep(Duration::from_millis(50)).await,
            Err(error) => {
                let context = format!(
                    "{} runs in {} and does not answer",
                    process(pid),
                    state.root().display()
                );
                return Err(anyhow::Error::new(error).context(context));
            }
        }
    }
}

async fn supervise(
    args: UpArgs,
    models: Vec<ValidatedModel>,
    state: StateDir,
    lock: Lock,
) -> anyhow::Result<ExitCode> {
    if args.in_background {
        rustix::process::setsid().context("cannot leave the terminal")?;
    }
    let signals = Signals::new()?;
    state
        .clear()
        .with_context(|| format!("cannot clear {}", state.root().display()))?;
    let (call_sender, calls) = mpsc::channel(64);
    let server = control::Server::listen(&state, call_sender)?;
    let (change_sender, changes) = mpsc::channel(1);
    let watcher = match args.watch {
        true => Some(watch_files::watch(args.files.clone(), change_sender)?),
        false => None,
    };
    let options = Options {
        state,
        host: args.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: args.port.unwrap_or(8080),
        api_key: args.api_key,
        engine_args: args.engine_args,
        stays: args.watch,
    };
    let outcome = supervisor::run(
        options,
        models,
        Inputs {
            calls,
            changes,
            signals,
        },
    )
    .await;
    server.finish().await;
    drop((watcher, lock));
    match outcome? {
        Outcome::NothingStarted => Ok(ExitCode::from(exit::ENGINE_FAILED)),
        Outcome::Stopped => Ok(ExitCode::SUCCESS),
    }
}

/// Starts the same command in the background and follows it until everything is ready or has failed.
async fn detach(args: &UpArgs, state: StateDir, lock: Lock) -> anyhow::Result<ExitCode> {
    let log_path = state.log("up");
    let log =
        std::fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    // The one in the background takes the folder over; whoever comes in between wins, and gets our manifests.
    drop(lock);
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("up")
        .arg("--in-background")
        .arg("--state-dir")
        .arg(state.root());
    for file in &args.files {
        command.arg("--file").arg(std::path::absolute(file)?);
    }
    command.args(args.host.iter().map(|host| format!("--host={host}")));
    command.args(args.port.iter().map(|port| format!("--port={port}")));
    command.args(args.engine_args.iter().map(|arg| format!("--engine-arg={arg}")));
    command.envs(args.api_key.iter().map(|key| ("FERRUM_API_KEY", key)));
    let (output, errors) = (log.try_clone()?, log);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()?;
    let ended = |status| {
        let told = std::fs::read_to_string(&log_path).unwrap_or_default();
        let error = told
            .rfind("error: ")
            .map_or(told.as_str(), |start| &told[start..]);
        anyhow!(
            "it ended with {status}: {}",
            error.trim_start_matches("error: ").trim_end()
        )
    };
    loop {
        if let Ok(replies) = control::send(&state, &Request::Wait).await {
            let followed = follow(replies).await;
            // One that broke off has written why.
            return match (followed, child.try_wait()?) {
                (Err(_), None) => Err(ended(child.wait().await?)),
                (Err(_), Some(status)) => Err(ended(status)),
                (followed, _) => followed,
            };
        }
        if let Some(status) = child.try_wait()? {
            return Err(ended(status));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Tells what the supervisor tells, until everything is ready or has failed.
async fn follow(mut replies: Replies) -> anyhow::Result<ExitCode> {
    while let Some(reply) = replies.next().await? {
        match reply {
            Reply::Line { text } => writeln!(io::stderr(), "{text}")?,
            Reply::Refused { message } => bail!(message),
            Reply::Settled(summary) => {
                let is_served = summary
                    .models
                    .iter()
                    .any(|model| model.ready > 0 || model.wanted == 0);
                return Ok(if is_served {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(exit::ENGINE_FAILED)
                });
            }
            Reply::Status(_) => {}
        }
    }
    bail!("it ended before everything was ready")
}

fn refused(refusals: manifest::Refusals) -> anyhow::Error {
    anyhow!("the manifests are refused\n{refusals}")
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl UpArgs {
    fn router_wish(&self) -> RouterWish {
        RouterWish {
            port: self.port,
            host: self.host,
            api_key: self.api_key.clone(),
        }
    }
}
