//! One `ferrum up` in a folder of its own.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::environment;

/// A running `ferrum up`. Dropping it kills the supervisor, which takes its children along.
pub struct Stack {
    process: Child,
    folder: TempDir,
    /// Address of the router, `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Stack {
    /// Starts `ferrum up` on `manifest`, with more `arguments`, and waits for the router's address.
    ///
    /// # Errors
    /// When the program ends early or no address comes within 60 s; with its log.
    pub async fn start(manifest: &str, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("models.yaml"), manifest)?;
        let log = File::create(folder.path().join("up.log"))?;
        let process = Command::new(environment("FERRUM_BIN"))
            .args(["up", "--port", "0", "-f"])
            .arg(folder.path().join("models.yaml"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()?;
        let mut stack = Self {
            process,
            folder,
            url: String::new(),
        };
        stack.url = stack.await_address().await?;
        Ok(stack)
    }

    /// Process ids of the engines, from the process table: children of the supervisor that run `ferrum serve`.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn engine_pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // A process may end between the listing and the reading.
            let (Ok(status), Ok(command)) = (
                fs::read_to_string(entry.path().join("status")),
                fs::read(entry.path().join("cmdline")),
            ) else {
                continue;
            };
            let parent = status
                .lines()
                .find_map(|line| line.strip_prefix("PPid:"))
                .map(str::trim);
            let serves = command.split(|byte| *byte == 0).nth(1) == Some(b"serve");
            if serves && parent == Some(self.process.id().to_string().as_str()) {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Waits until `ready` of the router's `/health` holds.
    ///
    /// # Errors
    /// After 120 s, with the last answer and the log.
    pub async fn await_health(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut last = String::new();
        while Instant::now() < deadline {
            if let Ok(answer) = reqwest::get(format!("{}/health", self.url)).await {
                last = answer.text().await.unwrap_or_default();
                if let Ok(health) = serde_json::from_str(&last)
                    && ready(&health)
                {
                    return Ok(health);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{what}: not within 120 s; last answer: {last}\n{}", self.log())
    }

    /// What `ferrum up` printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    /// The state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// SIGTERM; waits until it has ended and checks that it left no engine behind.
    ///
    /// # Errors
    /// When it does not end within 60 s, ends with a failure, or leaves an engine behind.
    pub async fn stop(mut self) -> Result<()> {
        let engines = self.engine_pids()?;
        signal(i32::try_from(self.process.id())?, Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "ferrum up did not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(status.success(), "ferrum up ended with {status}\n{}", self.log());
        let left: Vec<_> = engines.into_iter().filter(|pid| is_alive(*pid)).collect();
        ensure!(left.is_empty(), "engines left behind: {left:?}");
        Ok(())
    }

    async fn await_address(&mut self) -> Result<String> {
        let file = self.state_dir().join("router.address");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Ok(address) = fs::read_to_string(&file)
                && !address.trim().is_empty()
            {
                return Ok(address.trim().to_owned());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("ferrum up ended with {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no address within 60 s\n{}", self.log())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Already gone after `stop`; otherwise a test has failed and nothing may stay behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal to a process that a [`Stack`] started.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process id is positive")?;
    kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {pid:?}"))
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}
