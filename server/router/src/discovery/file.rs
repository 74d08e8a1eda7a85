//! One machine: the snapshot is a file that is replaced.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use prometheus::IntCounter;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::warn;

use super::{Endpoints, Snapshots, WatchError};

/// The file is looked at so often even if no change is told: some file systems tell none.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Follows the file. It may be missing; its folder may not. A file that is broken or gone leaves the last good
/// snapshot in force.
///
/// # Errors
/// When the folder cannot be watched.
pub(crate) fn watch(path: &Path, errors: IntCounter) -> Result<Snapshots, WatchError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let watch_error = |source| WatchError {
        path: folder.to_owned(),
        source,
    };
    let (changed, changes) = mpsc::channel(1);
    let name = path.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns = |event: &notify::Event| {
            let mut names = event.paths.iter().map(|path| path.file_name());
            !event.kind.is_access() && names.any(|found| found == name.as_deref())
        };
        if event.as_ref().map_or(true, concerns) {
            // A full channel means that a look is due already.
            let _ = changed.try_send(());
        }
    })
    .map_err(watch_error)?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(watch_error)?;
    let mut file = File {
        path: path.to_owned(),
        errors,
        seen: None,
        last_error: None,
    };
    let (sender, snapshots) = watch::channel(None);
    file.look(&sender);
    tokio::spawn(follow(file, watcher, changes, sender));
    Ok(snapshots)
}

/// Looks at the file after each change, until nobody is interested.
async fn follow(
    mut file: File,
    watcher: RecommendedWatcher,
    mut changes: mpsc::Receiver<()>,
    sender: watch::Sender<Option<Arc<Endpoints>>>,
) {
    let _watching = watcher;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = timeout(LOOK_INTERVAL, changes.recv()) => file.look(&sender),
        }
    }
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    errors: IntCounter,
    seen: Option<Seen>,
    last_error: Option<String>,
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl File {
    /// Reads the file if it is another one than before.
    fn look(&mut self, sender: &watch::Sender<Option<Arc<Endpoints>>>) {
        let seen = Seen::of(&self.path);
        if seen.is_some() && seen == self.seen {
            return;
        }
        match Endpoints::read(&self.path) {
            Ok(endpoints) => {
                self.seen = seen;
                self.last_error = None;
                sender.send_if_modified(|current| {
                    let is_new = current.as_deref() != Some(&endpoints);
                    if is_new {
                        *current = Some(Arc::new(endpoints));
                    }
                    is_new
                });
            }
            Err(error) => {
                let message = error.to_string();
                if self.last_error.as_ref() != Some(&message) {
                    self.errors.inc();
                    warn!(error = message, "the list of replicas stays as it was");
                    self.last_error = Some(message);
                }
            }
        }
    }
}

impl Seen {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn await_snapshot(snapshots: &mut Snapshots, generation: u64) -> Arc<Endpoints> {
        let arrived =
            snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|s| s.generation == generation));
        let snapshot = timeout(Duration::from_secs(10), arrived)
            .await
            .expect("in time")
            .expect("watched")
            .clone();
        snapshot.expect("some")
    }

    fn generation(generation: u64) -> Endpoints {
        Endpoints {
            generation,
            ..Endpoints::default()
        }
    }

    #[tokio::test]
    async fn a_broken_or_missing_file_leaves_the_last_good_snapshot() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("endpoints.json");
        let errors = IntCounter::new("errors", "errors").expect("counter");
        let mut snapshots = watch(&path, errors.clone()).expect("watches");
        assert!(snapshots.borrow().is_none());

        generation(1).write_atomically(&path).expect("writes");
        await_snapshot(&mut snapshots, 1).await;

        std::fs::write(&path, "{ half").expect("writes");
        let before = errors.get();
        timeout(Duration::from_secs(10), async {
            while errors.get() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the error is counted");
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(snapshots.borrow().as_ref().map(|s| s.generation), Some(1));

        generation(2).write_atomically(&path).expect("writes");
        await_snapshot(&mut snapshots, 2).await;
    }

    #[tokio::test]
    async fn a_missing_folder_is_refused_by_name() {
        let errors = IntCounter::new("errors", "errors").expect("counter");
        let error = watch(Path::new("/nowhere/endpoints.json"), errors).expect_err("refused");
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
