//! The chart, installed with helm as a user does it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::setting;

/// Name of the release that tests share.
pub const RELEASE: &str = "ferrum";
/// Its namespace.
pub const NAMESPACE: &str = "ferrum-system";

/// An installation of charts/ferrum.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The helm release.
    pub release: String,
    /// Where it is installed; made if need be, with restricted Pod Security.
    pub namespace: String,
    /// More arguments for `helm upgrade --install`, such as `--set`.
    pub arguments: Vec<String>,
}

impl Chart {
    /// The installation that tests share: every namespace is served. The first test that asks for it installs it;
    /// later ones, and later runs on the same cluster, find it and wait until it is ready.
    ///
    /// # Errors
    /// helm's own words.
    pub async fn shared() -> Result<Self> {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let mut arguments = vec!["--set-json".to_owned(), r#"namespaces=["*"]"#.to_owned()];
        // Node files are allowed, so that what Pod Security says of them can be seen.
        arguments.push("--set=operator.allowNodeFiles=true".to_owned());
        if let Some(hub) = setting("FERRUM_E2E_HUB") {
            arguments.push(format!("--set-string=operator.hubEndpoint={hub}"));
        }
        // Such as the registry that another cluster pulls from.
        let more = setting("FERRUM_E2E_HELM_ARGS").unwrap_or_default();
        arguments.extend(more.split_whitespace().map(str::to_owned));
        let chart = Self {
            release: RELEASE.to_owned(),
            namespace: NAMESPACE.to_owned(),
            arguments,
        };
        let shared = chart.clone();
        tokio::task::spawn_blocking(move || -> Result<()> {
            let mut installed = INSTALLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !*installed {
                shared.install_blocking()?;
                *installed = true;
            }
            Ok(())
        })
        .await??;
        Ok(chart)
    }

    /// Installs or upgrades, and waits until every pod is ready.
    ///
    /// # Errors
    /// helm's own words.
    pub async fn install(&self) -> Result<()> {
        let chart = self.clone();
        tokio::task::spawn_blocking(move || chart.install_blocking()).await?
    }

    /// Takes the release away and waits until its objects are gone.
    ///
    /// # Errors
    /// helm's own words.
    pub async fn uninstall(&self) -> Result<()> {
        let mut helm = Command::new("helm");
        helm.args([
            "uninstall",
            &self.release,
            "--namespace",
            &self.namespace,
            "--wait",
        ]);
        tokio::task::spawn_blocking(move || run(&mut helm, None)).await?
    }

    fn install_blocking(&self) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        });
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["apply", "-f", "-"]);
        run(&mut kubectl, Some(namespace.to_string()))?;

        let mut helm = Command::new("helm");
        helm.args(["upgrade", "--install", &self.release]).arg(folder());
        helm.args(["--namespace", &self.namespace, "--wait", "--timeout", "120s"]);
        helm.args(&self.arguments);
        if let Some(build) = setting("FERRUM_E2E_BUILD") {
            // The tag stays the same from build to build: pods are replaced when what they would run differs.
            for component in ["operator", "router"] {
                helm.arg("--set-string")
                    .arg(format!(r"{component}.podAnnotations.ferrum\.dev/build={build}"));
            }
        }
        run(&mut helm, None)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/ferrum")
}

fn run(command: &mut Command, input: Option<String>) -> Result<()> {
    use std::{io::Write, process::Stdio};

    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut stdin = process.stdin.take().context("no standard input")?;
    stdin.write_all(input.unwrap_or_default().as_bytes())?;
    drop(stdin);
    let done = process.wait_with_output()?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
