//! The cache on disk, in the layout that every tool of the hub shares:
//!
//! ```text
//! models--org--name/blobs/<etag>                the bytes; <etag>.incomplete while they arrive
//! models--org--name/snapshots/<commit>/<path>   -> ../../blobs/<etag>
//! models--org--name/refs/<revision>             the commit
//! .locks/models--org--name/<etag>.lock          held while a blob is written
//! ```
//!
//! A link in a snapshot is made after its blob is complete and verified, so what is linked is whole.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{Cache, Repo};

use super::{
    client::is_hex,
    error::HubError,
    reference::{Choice, HubRef},
    select::{Entry, RepoFile, SelectError, Selection, select},
};

/// How often a lock that another process holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// Folders below a snapshot: deeper ones hold nothing that is served.
const MAX_DEPTH: usize = 4;

/// The part of the cache that holds one repository.
#[derive(Debug)]
pub(crate) struct RepoStore {
    cache: Cache,
    repo: Repo,
}

/// A blob that this process alone may write. The lock ends with the value.
#[derive(Debug)]
pub(crate) struct BlobLock {
    _file: File,
}

impl RepoStore {
    /// Of `repo` (`org/name`) in the cache.
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        Self {
            cache: Cache::new(cache.to_owned()),
            repo: Repo::model(repo.to_owned()),
        }
    }

    /// `models--org--name`.
    pub(crate) fn root(&self) -> PathBuf {
        self.cache.path().join(self.repo.folder_name())
    }

    /// Where a complete blob is.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).blob_path(etag)
    }

    /// Where a blob is while it arrives.
    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }

    /// The commit that `revision` stood for when it was last asked for.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_hex(revision, 40) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.root().join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_hex(commit, 40).then(|| commit.to_owned())
    }

    /// Remembers the commit of `revision`.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_hex(revision, 40) {
            return Ok(());
        }
        let path = self.root().join("refs").join(revision);
        create_parent(&path)?;
        write_atomically(&path, commit.as_bytes()).map_err(HubError::io("cannot write", path))
    }

    /// Links `file` of `commit` to its blob.
    pub(crate) fn link(&self, commit: &str, file: &RepoFile) -> Result<(), HubError> {
        link_into(&self.snapshot(commit), &file.path, &file.etag)
    }

    /// What the engine opens for `model`, if all of it is here.
    pub(crate) fn cached(&self, model: &HubRef) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.commit(model.revision())?);
        complete_entry(&snapshot, &model.choice).ok().flatten()
    }

    /// Waits for the lock of a blob; `on_wait` is called once if another process holds it.
    pub(crate) async fn lock(&self, etag: &str, on_wait: impl FnOnce()) -> Result<BlobLock, HubError> {
        let path = self
            .cache
            .path()
            .join(".locks")
            .join(self.repo.folder_name())
            .join(format!("{etag}.lock"));
        lock_file(path, on_wait).await
    }
}

/// Waits for the lock that is the file `path`; `on_wait` is called once if another process holds it.
pub(super) async fn lock_file(path: PathBuf, on_wait: impl FnOnce()) -> Result<BlobLock, HubError> {
    create_parent(&path)?;
    let file = File::create(&path).map_err(HubError::io("cannot write", &path))?;
    let mut on_wait = Some(on_wait);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(BlobLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => {
                if let Some(on_wait) = on_wait.take() {
                    on_wait();
                }
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
            Err(fs::TryLockError::Error(error)) => return Err(HubError::io("cannot lock", path)(error)),
        }
    }
}

/// The files of a folder, as a repository lists them. Links that lead nowhere are left out.
pub(crate) fn list_folder(folder: &Path) -> io::Result<Vec<RepoFile>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = folders.pop() {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if metadata.is_file() {
                let inner = path
                    .strip_prefix(folder)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                files.push(RepoFile {
                    path: inner,
                    size: metadata.len(),
                    etag: String::new(),
                    sha256: None,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// What the engine opens in `folder`; `None` while shards are missing.
///
/// # Errors
/// [`SelectError`] when the folder holds no model at all.
pub(crate) fn complete_entry(folder: &Path, choice: &Choice) -> Result<Option<PathBuf>, SelectError> {
    let files = list_folder(folder).unwrap_or_default();
    let selection = select(&files, choice)?;
    Ok(match selection.entry {
        Entry::Gguf(file) => Some(folder.join(file)),
        Entry::Folder => has_every_shard(folder, &selection).then(|| folder.to_owned()),
    })
}

/// The index names the shards; without one there is a single file.
fn has_every_shard(folder: &Path, selection: &Selection<'_>) -> bool {
    let has = |name: &str| selection.files.iter().any(|file| file.path == name);
    if has("model.safetensors") {
        return true;
    }
    let index = fs::read(folder.join("model.safetensors.index.json")).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    let Some(map) = index.get("weight_map").and_then(serde_json::Value::as_object) else {
        return false;
    };
    map.values().all(|shard| shard.as_str().is_some_and(has))
}

/// Makes `snapshot/path` a link to the blob, relative so that the cache can be moved.
pub(crate) fn link_into(snapshot: &Path, path: &str, etag: &str) -> Result<(), HubError> {
    let link = snapshot.join(path);
    create_parent(&link)?;
    let up = "../".repeat(path.split('/').count() + 1);
    let target = format!("{up}blobs/{etag}");
    if fs::read_link(&link).is_ok_and(|present| present == Path::new(&target)) {
        return Ok(());
    }
    // Made beside and renamed over: another process never sees it missing.
    let beside = link.with_file_name(format!(".{}.{}", etag, std::process::id()));
    let made = std::os::unix::fs::symlink(&target, &beside).and_then(|()| fs::rename(&beside, &link));
    made.map_err(HubError::io("cannot write", link))
}

/// Makes the folder that `path` is in.
pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io("cannot make the folder", parent))
}

/// Writes a small file so that a reader sees the old or the new content, never a part.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
