//! Bytes on their way into the cache: where they go, how far they are, and what is done when they stop coming.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{client::SILENCE, error::HubError};

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

/// How far all files together are.
pub(super) struct Tally<'a> {
    done_bytes: AtomicU64,
    /// 0 while nobody knows.
    total_bytes: u64,
    observer: &'a dyn FetchObserver,
}

/// Where the files go.
pub(super) struct Room<'a> {
    /// The model, for a message.
    pub(super) title: &'a str,
    /// The folder that holds it.
    pub(super) folder: &'a Path,
    /// Most bytes that the model may have.
    pub(super) max_bytes: Option<u64>,
}

impl Room<'_> {
    /// Whether `total_bytes`, of which `done_bytes` are here, may come and find space.
    ///
    /// # Errors
    /// [`HubError::TooLarge`], [`HubError::NoSpace`]; nothing was written.
    pub(super) fn check(&self, total_bytes: u64, done_bytes: u64) -> Result<(), HubError> {
        if let Some(max_bytes) = self.max_bytes.filter(|&max_bytes| total_bytes > max_bytes) {
            return Err(HubError::TooLarge {
                model: self.title.to_owned(),
                total_bytes,
                max_bytes,
            });
        }
        let folder = self.folder;
        fs::create_dir_all(folder).map_err(HubError::io("cannot make the folder", folder))?;
        let stat =
            rustix::fs::statvfs(folder).map_err(|error| HubError::io("cannot read", folder)(error.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        let missing = total_bytes.saturating_sub(done_bytes);
        if missing > 0 && missing.saturating_add(SPARE_BYTES) > free_bytes {
            return Err(HubError::NoSpace {
                repo: self.title.to_owned(),
                needed_bytes: missing.saturating_add(SPARE_BYTES),
                free_bytes,
                cache: folder.to_owned(),
            });
        }
        Ok(())
    }
}

/// Failures in a row.
#[derive(Default)]
pub(super) struct Retries {
    failures: u32,
}

impl Retries {
    /// Waits before the next try; false once enough have failed without a byte in between.
    pub(super) async fn again(&mut self, has_advanced: bool) -> bool {
        self.failures = if has_advanced { 0 } else { self.failures + 1 };
        if self.failures >= MAX_FAILURES {
            return false;
        }
        tokio::time::sleep(FIRST_BACKOFF * 2_u32.pow(self.failures)).await;
        true
    }
}

/// Appends what arrives. An answer that ends early or says more than `size` is an error; without a size it ends where
/// the server says that it ends.
pub(super) async fn receive(
    response: reqwest::Response,
    partial: &mut Partial,
    size: Option<u64>,
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
        if size.is_some_and(|size| partial.len + chunk.len() as u64 > size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes arrive than were announced",
            ));
        }
        partial.append(&chunk)?;
        tally.add(chunk.len() as u64);
    }
    if size.is_some_and(|size| partial.len < size) {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed",
        ));
    }
    Ok(())
}

impl<'a> Tally<'a> {
    pub(super) fn new(done_bytes: u64, total_bytes: u64, observer: &'a dyn FetchObserver) -> Self {
        Self {
            done_bytes: AtomicU64::new(done_bytes),
            total_bytes,
            observer,
        }
    }

    /// More bytes are here.
    pub(super) fn add(&self, bytes: u64) {
        self.tell(self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    /// Bytes that were here must come again.
    pub(super) fn subtract(&self, bytes: u64) {
        self.tell(self.done_bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes);
    }

    fn tell(&self, done_bytes: u64) {
        let done_bytes = match self.total_bytes {
            0 => done_bytes,
            total_bytes => done_bytes.min(total_bytes),
        };
        self.observer.on_event(FetchEvent::Bytes {
            done_bytes,
            total_bytes: self.total_bytes,
        });
    }
}

/// A file that arrives, hashed as it grows.
pub(super) struct Partial {
    file: File,
    pub(super) len: u64,
    hash: Sha256,
}

impl Partial {
    /// Goes on with what is at `path`, at most `size` bytes.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
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

    /// Drops what is there.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.len = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Adds `bytes` at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Brings it to the disk; gives the SHA-256 of all of it.
    pub(super) fn finish(self) -> io::Result<String> {
        self.file.sync_all()?;
        Ok(hex(&self.hash.finalize()))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
