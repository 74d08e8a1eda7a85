//! The programs of the cluster of e2e/cluster, to be stopped and counted by tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::environment;

/// Label and taint of simulated nodes.
pub const SIMULATED_NODE: &str = "ferrum.dev/simulated-node";
/// As e2e/cluster calls it.
const API_SERVER: &str = "kube-apiserver";

/// Stops the API server as it stands: connections stay open and nothing answers.
///
/// # Errors
/// When it does not run.
pub async fn freeze_api_server() -> Result<()> {
    tool(&["signal", API_SERVER, "STOP"]).await
}

/// Lets it go on after [`freeze_api_server`].
///
/// # Errors
/// When it does not run.
pub async fn thaw_api_server() -> Result<()> {
    tool(&["signal", API_SERVER, "CONT"]).await
}

/// SIGKILL for the process of a container, by the id that its pod's status gives.
///
/// # Errors
/// When no node runs it.
pub async fn kill_container(id: &str) -> Result<()> {
    tool(&["kill-container", id.trim_start_matches("containerd://")]).await
}

/// Has exactly `count` simulated nodes (KWOK) with [`SIMULATED_NODE`] as label and taint. Pods on them are Ready at
/// once and run nowhere; their addresses are those of this machine.
///
/// # Errors
/// When they are not ready in time.
pub async fn simulate_nodes(count: u32) -> Result<()> {
    tool(&["simulate", &count.to_string()]).await
}

/// What one user asked of the API server from now on.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    offset: u64,
    user: String,
}

impl AuditLog {
    /// Begins with the next request of `user`, such as `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// When there is no log.
    pub fn follow(user: &str) -> Result<Self> {
        let path = environment("FERRUM_CLUSTER_AUDIT_LOG");
        let offset = path.metadata().with_context(|| path.display().to_string())?.len();
        Ok(Self {
            path,
            offset,
            user: user.to_owned(),
        })
    }

    /// How often each kind of request (`patch deployments`) was made since the last call.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut log = BufReader::new(File::open(&self.path)?);
        log.seek(SeekFrom::Start(self.offset))?;
        let (mut seen, mut counts) = (BTreeSet::new(), BTreeMap::new());
        let mut line = String::new();
        loop {
            line.clear();
            let read = log.read_line(&mut line)?;
            if read == 0 || !line.ends_with('\n') {
                break; // the rest of a line that is being written is for the next call
            }
            self.offset += u64::try_from(read)?;
            let event: Value = serde_json::from_str(&line)?;
            // A watch is logged when it begins and when it ends.
            if event["user"]["username"] != self.user.as_str() || !seen.insert(event["auditID"].to_string()) {
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let mut kind = format!("{} {}", text(&event["verb"]), text(&object["resource"]));
            if let Some(part) = object["subresource"].as_str() {
                kind = format!("{kind}/{part}");
            }
            *counts.entry(kind).or_insert(0) += 1;
        }
        Ok(counts)
    }
}

async fn tool(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(environment("FERRUM_CLUSTER_TOOL"));
    command.args(arguments);
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
