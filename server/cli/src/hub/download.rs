//! From a listing to verified files in the cache: resume, retry, hash, link.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

use super::{
    client::{HubClient, SILENCE},
    error::HubError,
    reference::HubRef,
    select::{RepoFile, Selection},
    store::{RepoStore, create_parent},
};

/// Files that arrive at the same time.
const PARALLEL_FILES: usize = 4;
/// Failures in a row, without a byte in between, after which a download is given up.
const MAX_FAILURES: u32 = 5;
/// Wait before the first retry; it doubles each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Left free on the disk beside what the model needs.
const SPARE_BYTES: u64 = 64 << 20;
const READ_SIZE: usize = 1 << 20;

/// Hears how a download goes.
pub(crate) trait FetchObserver: Send + Sync {
    /// Called often; must return at once.
    fn on_event(&self, event: FetchEvent<'_>);
}

/// What happens to a download.
pub(crate) enum FetchEvent<'a> {
    /// Bytes begin to move.
    Begin {
        /// The model.
        title: &'a str,
        /// Bytes that are here already.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// More bytes are here (or fewer, when a file must begin anew).
    Bytes {
        /// Bytes that are here.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Everything is here.
    End,
    /// Something that a person wants to know.
    Note(&'a str),
}

/// One download.
pub(crate) struct Download<'a> {
    /// The hub.
    pub(crate) client: &'a HubClient,
    /// The cache.
    pub(crate) store: &'a RepoStore,
    /// The model.
    pub(crate) model: &'a HubRef,
    /// Its commit.
    pub(crate) commit: &'a str,
    /// Who watches.
    pub(crate) observer: &'a dyn FetchObserver,
}

/// How far all files together are.
struct Tally<'a> {
    done_bytes: AtomicU64,
    total_bytes: u64,
    observer: &'a dyn FetchObserver,
}

impl Download<'_> {
    /// Brings every file of `selection` into the cache and links it. Descriptions come first, so that a snapshot with
    /// weights is whole.
    ///
    /// # Errors
    /// The first file that cannot be had; what has arrived stays for the next try.
    pub(crate) async fn run(&self, selection: &Selection<'_>) -> Result<(), HubError> {
        let total_bytes = selection.files.iter().map(|file| file.size).sum();
        let done_bytes = selection.files.iter().map(|file| self.present_bytes(file)).sum();
        self.check_space(total_bytes, done_bytes)?;
        let tally = Tally {
            done_bytes: AtomicU64::new(done_bytes),
            total_bytes,
            observer: self.observer,
        };
        let title = self.model.title();
        self.observer.on_event(FetchEvent::Begin {
            title: &title,
            done_bytes,
            total_bytes,
        });
        let is_weight =
            |file: &&&RepoFile| file.path.ends_with(".safetensors") || file.path.ends_with(".gguf");
        let (weights, descriptions): (Vec<_>, Vec<_>) = selection.files.iter().partition(is_weight);
        for stage in [descriptions, weights] {
            futures_util::stream::iter(stage)
                .map(|file| self.fetch(file, &tally))
                .buffer_unordered(PARALLEL_FILES)
                .try_collect::<()>()
                .await?;
        }
        self.observer.on_event(FetchEvent::End);
        Ok(())
    }

    fn present_bytes(&self, file: &RepoFile) -> u64 {
        let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
        let blob = size(&self.store.blob(&file.etag));
        blob.or_else(|| size(&self.store.incomplete(&file.etag)))
            .unwrap_or(0)
            .min(file.size)
    }

    fn check_space(&self, total_bytes: u64, done_bytes: u64) -> Result<(), HubError> {
        let root = self.store.root();
        fs::create_dir_all(&root).map_err(HubError::io("cannot make the folder", &root))?;
        let stat =
            rustix::fs::statvfs(&root).map_err(|error| HubError::io("cannot read", &root)(error.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        let missing = total_bytes - done_bytes;
        if missing > 0 && missing + SPARE_BYTES > free_bytes {
            let needed_bytes = missing + SPARE_BYTES;
            return Err(HubError::NoSpace {
                repo: self.model.repo.clone(),
                needed_bytes,
                free_bytes,
                cache: root,
            });
        }
        Ok(())
    }

    async fn fetch(&self, file: &RepoFile, tally: &Tally<'_>) -> Result<(), HubError> {
        let blob = self.store.blob(&file.etag);
        if !blob.exists() {
            let note = format!("another process downloads {}; waiting for it", file.path);
            let _lock = self
                .store
                .lock(&file.etag, || self.observer.on_event(FetchEvent::Note(&note)))
                .await?;
            if !blob.exists() {
                self.fetch_blob(file, tally).await?;
            }
        }
        self.store.link(self.commit, file)
    }

    async fn fetch_blob(&self, file: &RepoFile, tally: &Tally<'_>) -> Result<(), HubError> {
        create_parent(&self.store.blob(&file.etag))?;
        let path = self.store.incomplete(&file.etag);
        // A partial file may come from another tool or from a hub that lied: after a wrong hash, once more from zero.
        for last_try in [false, true] {
            let resumed = path.exists();
            let got = self.transfer(file, &path, tally).await?;
            let Some(expected) = &file.sha256 else { break };
            if got == *expected {
                break;
            }
            fs::remove_file(&path).map_err(HubError::io("cannot remove", &path))?;
            tally.subtract(file.size);
            if last_try || !resumed {
                let (file, expected) = (file.path.clone(), expected.clone());
                return Err(HubError::Corrupt {
                    file,
                    what: "SHA-256",
                    got,
                    expected,
                });
            }
            tracing::warn!(
                file = file.path,
                "the resumed file is damaged; downloading it from its start"
            );
        }
        let blob = self.store.blob(&file.etag);
        fs::rename(&path, &blob).map_err(HubError::io("cannot write", blob))
    }

    /// Brings the rest of `file`; returns the SHA-256 of all of it.
    async fn transfer(&self, file: &RepoFile, path: &Path, tally: &Tally<'_>) -> Result<String, HubError> {
        let mut partial = Partial::open(path, file.size).map_err(HubError::io("cannot read", path))?;
        let mut failures = 0;
        while partial.len < file.size || file.size == 0 {
            let before = partial.len;
            let error = match self.client.open(self.model, self.commit, file, partial.len).await {
                Ok(answer) => {
                    if answer.offset != partial.len {
                        tally.subtract(partial.len);
                        partial.restart().map_err(HubError::io("cannot write", path))?;
                    }
                    receive(answer.response, &mut partial, file.size, tally).await
                }
                Err(error) if error.is_unreachable() => Err(io::Error::other(error)),
                Err(error) => return Err(error),
            };
            let Err(error) = error else { break };
            if error.kind() == io::ErrorKind::StorageFull {
                return Err(HubError::io("cannot write", path)(error));
            }
            failures = if partial.len > before { 0 } else { failures + 1 };
            if failures >= MAX_FAILURES {
                let (file, total_bytes) = (file.path.clone(), file.size);
                return Err(HubError::BrokenOff {
                    file,
                    done_bytes: partial.len,
                    total_bytes,
                    source: error,
                });
            }
            tracing::info!(file = file.path, at = partial.len, %error, "the download broke off; going on");
            tokio::time::sleep(FIRST_BACKOFF * 2_u32.pow(failures)).await;
        }
        partial.finish().map_err(HubError::io("cannot write", path))
    }
}

/// Appends what arrives. An answer that ends early or says more than the listing is an error.
async fn receive(
    response: reqwest::Response,
    partial: &mut Partial,
    size: u64,
    tally: &Tally<'_>,
) -> io::Result<()> {
    let mut stream = response.bytes_stream();
    loop {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "nothing arrived for 30 s");
        let next = tokio::time::timeout(SILENCE, stream.next())
            .await
            .map_err(|_| silent())?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(io::Error::other)?;
        if partial.len + chunk.len() as u64 > size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes arrive than the hub listed",
            ));
        }
        partial.append(&chunk)?;
        tally.add(chunk.len() as u64);
    }
    if partial.len < size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed",
        ));
    }
    Ok(())
}

impl Tally<'_> {
    fn add(&self, bytes: u64) {
        self.tell(self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    fn subtract(&self, bytes: u64) {
        self.tell(self.done_bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes);
    }

    fn tell(&self, done_bytes: u64) {
        let done_bytes = done_bytes.min(self.total_bytes);
        self.observer.on_event(FetchEvent::Bytes {
            done_bytes,
            total_bytes: self.total_bytes,
        });
    }
}

/// A file that arrives, hashed as it grows.
struct Partial {
    file: File,
    len: u64,
    hash: Sha256,
}

impl Partial {
    /// Goes on with what is at `path`, at most `size` bytes.
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut partial = Self {
            file,
            len: 0,
            hash: Sha256::new(),
        };
        if partial.file.metadata()?.len() > size {
            partial.restart()?;
        }
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let read = partial.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(partial);
            }
            partial.hash.update(&buffer[..read]);
            partial.len += read as u64;
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.len = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<String> {
        self.file.sync_all()?;
        Ok(hex(&self.hash.finalize()))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
