//! A file that is read again whenever it changes, or whenever another one takes its place.

use std::{
    ffi::OsStr,
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

/// The file is looked at so often even if no change is told: some file systems tell none.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Where a folder is the mount of a Secret, its files are links through this one, and only this one is replaced.
const MOUNT_LINK: &str = "..data";

/// The folder of a file cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the folder {}: {source}", path.display())]
pub struct WatchError {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub source: notify::Error,
}

/// The last good content; `None` until there was one.
pub(crate) type Contents<T> = watch::Receiver<Option<Arc<T>>>;

/// Reads a file; the message of an error is logged.
pub(crate) type ReadFile<T> = fn(&Path) -> Result<T, String>;

/// Follows a file, which may be missing; its folder may not. A file that is broken or gone leaves what was good in
/// force, and is counted in `errors`.
///
/// # Errors
/// When the folder cannot be watched.
pub(crate) fn follow<T>(path: &Path, read: ReadFile<T>, errors: IntCounter) -> Result<Contents<T>, WatchError>
where
    T: PartialEq + Send + Sync + 'static,
{
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
            let is_ours = |found| found == name.as_deref() || found == Some(OsStr::new(MOUNT_LINK));
            !event.kind.is_access() && names.any(is_ours)
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
        read,
        errors,
        seen: None,
        last_error: None,
    };
    let (sender, snapshots) = watch::channel(None);
    file.look(&sender);
    tokio::spawn(look_again(file, watcher, changes, sender));
    Ok(snapshots)
}

/// Looks at the file after each change, until nobody is interested.
async fn look_again<T: PartialEq>(
    mut file: File<T>,
    watcher: RecommendedWatcher,
    mut changes: mpsc::Receiver<()>,
    sender: watch::Sender<Option<Arc<T>>>,
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
struct File<T> {
    path: PathBuf,
    read: ReadFile<T>,
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

impl<T: PartialEq> File<T> {
    /// Reads the file if it is another one than before.
    fn look(&mut self, sender: &watch::Sender<Option<Arc<T>>>) {
        let seen = Seen::of(&self.path);
        if seen.is_some() && seen == self.seen {
            return;
        }
        match (self.read)(&self.path) {
            Ok(content) => {
                self.seen = seen;
                self.last_error = None;
                sender.send_if_modified(|current| {
                    let is_new = current.as_deref() != Some(&content);
                    if is_new {
                        *current = Some(Arc::new(content));
                    }
                    is_new
                });
            }
            Err(message) => {
                if self.last_error.as_ref() != Some(&message) {
                    self.errors.inc();
                    warn!(error = message, "what was read before stays in force");
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
