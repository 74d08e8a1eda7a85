//! The commands of docs/playbooks, run as they stand: only the model hub is a local one.
#![cfg(feature = "cluster")]
#![allow(clippy::print_stdout)] // what the commands print, with --nocapture

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ferrum_e2e::cluster::{Chart, connect};
use tokio::process::Command;

/// In the order in which the overview names them.
const PAGES: &[&str] = &[
    "install",
    "first-model",
    "gated-model",
    "from-zero",
    "upgrade",
    "gpu-nodes",
    "troubleshooting",
];
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_playbooks_works_as_it_stands() -> Result<()> {
    connect().await?; // refuses clusters that are not for tests
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let overview = fs::read_to_string(root.join("docs/playbooks/README.md"))?;
    let mut failures = Vec::new();
    for page in PAGES {
        ensure!(
            overview.contains(&format!("({page}.md)")),
            "the overview lacks {page}.md"
        );
        let text = fs::read_to_string(root.join(format!("docs/playbooks/{page}.md")))?;
        let script = commands(&text);
        ensure!(!script.is_empty(), "{page}.md has no bash block");
        let script = with_local_hub(&script)?;
        match run(&root, &script).await {
            Ok(told) => println!("== {page}\n{told}"),
            Err(error) => failures.push(format!("{page}.md: {error:#}")),
        }
    }
    // Other tests want every namespace served.
    Chart::shared().await?;
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn every_page_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/playbooks");
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let page = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(page == "README" || PAGES.contains(&page), "{page} is not run");
    }
}

/// The text of all `bash` blocks.
fn commands(page: &str) -> String {
    let mut commands = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```bash" => inside = true,
            "```" => inside = false,
            _ if inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

fn with_local_hub(script: &str) -> Result<String> {
    let hub =
        std::env::var("FERRUM_E2E_HUB").context("FERRUM_E2E_HUB is not set: run this with `make e2e`")?;
    let install = "helm upgrade --install ferrum charts/ferrum";
    Ok(script.replace(
        install,
        &format!("{install} --set-string operator.hubEndpoint={hub}"),
    ))
}

async fn run(root: &Path, script: &str) -> Result<String> {
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script])
        .current_dir(root)
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, bash.output())
        .await
        .context("took too long")??;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{told}\n{errors}");
    Ok(told)
}
