//! A `ferrum serve` of a test's own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::ferrum;

/// Longest wait for a process on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; it is killed with the value.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// What it printed until it was ready.
    pub(crate) announcement: String,
    child: Child,
}

impl Server {
    /// `ferrum serve ARGS` on a free port, once it is ready.
    pub(crate) fn start(home: &Path, args: &[&str]) -> Self {
        let mut command = ferrum(home);
        command
            .arg("serve")
            .args(args)
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // The announcement is two lines.
            let announcement: Vec<_> = lines.by_ref().take(2).map_while(Result::ok).collect();
            let _ = sender.send(announcement.join("\n"));
            lines.for_each(drop);
        });
        let announcement = receiver
            .recv_timeout(PATIENCE)
            .expect("it is ready, or ends, in time");
        let url = announcement
            .split_once("ready at ")
            .and_then(|(_, rest)| rest.split("/v1").next());
        let Some(url) = url.map(str::to_owned) else {
            let mut log = String::new();
            let _ = child.kill();
            let _ = child.stderr.take().expect("is piped").read_to_string(&mut log);
            panic!("it is not ready: {announcement}\n{log}");
        };
        Self {
            url,
            announcement,
            child,
        }
    }

    /// A simulated engine.
    pub(crate) fn sim(home: &Path, args: &[&str]) -> Self {
        Self::start(home, &[&["any", "--sim"], args].concat())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(id, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        wait(&mut self.child).code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a process.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("is our child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
