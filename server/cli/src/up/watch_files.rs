//! `--watch`: reads the manifests again when a file changes.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use ferrum_crds::{ValidatedModel, manifest::Refusals};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::sleep};

use super::one_machine;

/// Editors write in several steps; what comes within this time is one change.
const QUIET: Duration = Duration::from_millis(150);

/// Watches `files`; what they say after a change goes to `changes`. Ends when the watcher is dropped.
///
/// # Errors
/// When the system cannot watch their folders.
pub(crate) fn watch(
    files: Vec<PathBuf>,
    changes: mpsc::Sender<Result<Vec<ValidatedModel>, Refusals>>,
) -> anyhow::Result<RecommendedWatcher> {
    let (touched, mut touches) = mpsc::channel(1);
    let notice = move |event: notify::Result<notify::Event>| {
        let is_reading = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
        if !is_reading {
            // One pending touch is enough: the files are read after it.
            let _ = touched.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(notice).context("cannot watch files")?;
    // The folders, not the files: an editor replaces a file, and the new one is another file.
    let folders: HashSet<PathBuf> = files.iter().map(|file| folder_of(file)).collect();
    for folder in folders {
        let context = || format!("cannot watch {}", folder.display());
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .with_context(context)?;
    }
    tokio::spawn(async move {
        let mut last = None;
        while touches.recv().await.is_some() {
            sleep(QUIET).await;
            let _ = touches.try_recv();
            let change = one_machine::read(&files);
            // Other files of the folder change too; the same refusal need not be told twice.
            if last.as_ref() != Some(&change) {
                last = Some(change.clone());
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(watcher)
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
