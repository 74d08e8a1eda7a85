//! One child process: launched with a lifeline and a log, ended politely or at once.

use std::{
    env,
    ffi::OsString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::unix::pipe,
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    lifeline,
    log_file::{self, Tail},
    state_dir::remove_if_there,
};

/// The variable that `serve` and `router` read their key from.
pub(crate) const KEY_VARIABLE: &str = "FERRUM_API_KEY";

/// How to launch a child: this very program with other arguments.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Arguments.
    pub(crate) args: Vec<OsString>,
    /// Variables beyond our own.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Where it writes its address once it listens.
    pub(crate) address_file: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    tail: Tail,
    /// Held open for as long as the child may live.
    _lifeline: Option<ChildStdin>,
}

/// Waits until a child listens; its address, `http://127.0.0.1:PORT`.
///
/// # Errors
/// After a minute without an address.
pub(crate) async fn await_address(file: &Path) -> anyhow::Result<String> {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    while Instant::now() < deadline {
        match tokio::fs::read_to_string(file).await {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
    anyhow::bail!("did not listen within {} s", LISTEN_TIMEOUT.as_secs())
}

/// A child that listens within this time is not stuck: it does so before it loads anything.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);

impl Process {
    /// Launches a child in a process group of its own, so that the terminal's Ctrl-C reaches only the supervisor.
    pub(crate) fn spawn(launch: &Launch) -> anyhow::Result<Self> {
        remove_if_there(&launch.address_file)
            .with_context(|| format!("cannot remove {}", launch.address_file.display()))?;
        let program = env::current_exe().context("cannot find the own program")?;
        let (output, input) = std::io::pipe()?;
        let mut child = Command::new(&program)
            .args(&launch.args)
            .arg("--address-file")
            .arg(&launch.address_file)
            .env(lifeline::VARIABLE, "stdin")
            // The key of the endpoint is the router's; the engines behind it are reached by this machine alone.
            .env_remove(KEY_VARIABLE)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(input.try_clone()?)
            .stderr(input)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let tail = Tail::default();
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        tokio::spawn(log_file::pump(output, launch.log.clone(), tail.clone()));
        let lifeline = child.stdin.take();
        Ok(Self {
            child,
            tail,
            _lifeline: lifeline,
        })
    }

    /// Process id; `None` once it has ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// SIGTERM, and SIGKILL after `patience`. Whether it ended by itself.
    pub(crate) async fn stop(&mut self, patience: Duration) -> bool {
        self.terminate();
        if timeout(patience, self.wait()).await.is_ok() {
            return true;
        }
        self.kill().await;
        false
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in between, which is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.start_kill();
        let _ = self.wait().await;
    }

    /// Why it ended: what it said last, else how it ended.
    pub(crate) async fn explain(&self, status: Option<ExitStatus>) -> String {
        // The last output may still be in the pipe.
        sleep(Duration::from_millis(50)).await;
        let ended = status.map_or_else(|| "ended".to_owned(), |status| format!("ended with {status}"));
        explanation(&ended, &self.tail.lines())
    }
}

/// The error that was told; else how it ended and the last line.
fn explanation(ended: &str, lines: &[String]) -> String {
    let told = |lines: &[String]| {
        lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join("; ")
    };
    if let Some(start) = lines.iter().rposition(|line| line.starts_with("error:")) {
        let end = lines.len().min(start + LONGEST_ERROR);
        return told(&lines[start..end])
            .trim_start_matches("error:")
            .trim()
            .to_owned();
    }
    match lines.last() {
        Some(last) => format!("{ended}: {}", last.trim()),
        None => ended.to_owned(),
    }
}

/// Lines of an error with its causes.
const LONGEST_ERROR: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_explained_by_the_error_that_was_told() {
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let told = lines(&["loading", "error: no such model", "  caused by: 404"]);
        assert_eq!(
            explanation("ended with 1", &told),
            "no such model; caused by: 404"
        );
        assert_eq!(
            explanation("ended with signal: 9", &lines(&["loading", "at 40 %"])),
            "ended with signal: 9: at 40 %"
        );
        assert_eq!(explanation("ended with 1", &[]), "ended with 1");
    }
}
