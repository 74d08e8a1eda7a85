//! `ferrum up` with simulated engines, in a folder of its own.

#![allow(dead_code)] // each test file uses its part

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything; the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A folder with manifests and state, and the commands that work on it.
pub(crate) struct Bench {
    folder: TempDir,
}

/// A `ferrum up` in the foreground. Dropping it kills it, which takes its children along.
pub(crate) struct Up<'a> {
    bench: &'a Bench,
    process: Child,
}

/// A document for a manifest.
pub(crate) fn model(name: &str, settings: &str) -> String {
    format!(
        "---\napiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata: {{name: {name}}}\n\
         spec: {{model: hf://org/{name}, task: chat, {settings}}}\n"
    )
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("folder"),
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Replaces the manifest.
    pub(crate) fn write(&self, manifest: &str) {
        fs::write(self.manifest(), manifest).expect("writes");
    }

    /// A command of `ferrum` on the state folder.
    pub(crate) fn ferrum(&self, command: &str) -> Command {
        let mut ferrum = Command::new(env!("CARGO_BIN_EXE_ferrum"));
        ferrum
            .arg(command)
            .arg("--state-dir")
            .arg(self.state())
            .env_remove("FERRUM_API_KEY")
            .stdin(Stdio::null());
        ferrum
    }

    /// `ferrum up` on the manifest, with simulated engines.
    pub(crate) fn up_command(&self, args: &[&str]) -> Command {
        let mut up = self.engines_command();
        up.arg("--engine-arg=--sim").args(args);
        up
    }

    /// The same with real engines.
    fn engines_command(&self) -> Command {
        let mut up = self.ferrum("up");
        up.arg("-f").arg(self.manifest());
        up
    }

    /// Starts `ferrum up` on a free port, in the foreground.
    pub(crate) fn start(&self, args: &[&str]) -> Up<'_> {
        self.run(self.up_command(args))
    }

    /// The same with real engines.
    pub(crate) fn start_engines(&self) -> Up<'_> {
        self.run(self.engines_command())
    }

    fn run(&self, mut up: Command) -> Up<'_> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("log");
        up.arg("--port=0")
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        Up {
            bench: self,
            process: up.spawn().expect("starts"),
        }
    }

    /// Runs a command to its end.
    pub(crate) fn finish(&self, command: &mut Command) -> (Output, String) {
        let output = command.output().expect("runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, told)
    }

    /// What `ferrum status` tells; null when nothing answers.
    pub(crate) fn status(&self) -> Value {
        let output = self.ferrum("status").arg("--json").output().expect("runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until `holds` of the status.
    pub(crate) fn await_status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.await_some(what, || Some(self.status()).filter(|status| holds(status)))
    }

    /// Waits until `find` finds something.
    pub(crate) fn await_some<T>(&self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(found) = find() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "not within {PATIENCE:?}: {what}\n{}\n{}",
            self.log(),
            self.engine_logs()
        );
    }

    /// What `ferrum up` told so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        self.await_some("the router's address", || {
            let text = fs::read_to_string(self.state().join("router.address")).ok()?;
            Some(text.trim().to_owned()).filter(|url| !url.is_empty())
        })
    }

    /// Processes that have the state folder among their arguments.
    pub(crate) fn processes(&self) -> Vec<String> {
        let needle = self.state().display().to_string();
        let commands = fs::read_dir("/proc").expect("lists").filter_map(|entry| {
            let command = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&command).replace('\0', " "))
        });
        commands.filter(|command| command.contains(&needle)).collect()
    }

    pub(crate) fn engine_logs(&self) -> String {
        let logs = fs::read_dir(self.state().join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        let tell = |path: &Path| {
            format!(
                "== {}\n{}",
                path.display(),
                fs::read_to_string(path).unwrap_or_default()
            )
        };
        logs.map(|log| tell(&log.path())).collect()
    }

    fn manifest(&self) -> PathBuf {
        self.folder.path().join("models.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("up.log")
    }
}

impl Up<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until as many replicas are ready.
    pub(crate) fn await_ready(&self, count: usize) -> Value {
        self.bench
            .await_status(&format!("{count} replicas ready"), |status| {
                let replicas = replicas(status);
                replicas.len() == count && replicas.iter().all(|replica| replica["state"] == "ready")
            })
    }

    /// Waits for the end.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on\n{}", self.bench.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        signal(self.pid(), Signal::TERM);
        self.await_end()
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rows of a status.
pub(crate) fn replicas(status: &Value) -> Vec<Value> {
    status["replicas"].as_array().cloned().unwrap_or_default()
}

/// The process of a replica.
pub(crate) fn pid_of(status: &Value, id: &str) -> u32 {
    let replicas = replicas(status);
    let replica = replicas.iter().find(|replica| replica["id"] == id);
    let pid = replica
        .and_then(|replica| replica["pid"].as_u64())
        .unwrap_or_else(|| panic!("{id} in {status}"));
    u32::try_from(pid).expect("a process id")
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("positive");
    kill_process(pid, signal).expect("the process is there");
}

/// Asks for a chat answer. The error names what went wrong.
pub(crate) async fn chat(
    http: &reqwest::Client,
    url: &str,
    model: &str,
    stream: bool,
) -> Result<String, String> {
    let body = serde_json::json!({
        "model": model,
        "stream": stream,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Hello!"}],
    });
    let request = http.post(format!("{url}/v1/chat/completions")).json(&body);
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let text = answer
        .text()
        .await
        .map_err(|error| format!("{status}, then {error:?}"))?;
    let is_complete = if stream {
        text.contains("data: [DONE]")
    } else {
        text.contains("\"choices\"")
    };
    if status.is_success() && is_complete && !text.contains("\"error\"") {
        return Ok(text);
    }
    Err(format!("{status}: {text}"))
}
