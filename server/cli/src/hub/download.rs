//! From a listing to verified files in the cache: resume, retry, hash, link.

use std::{fs, io, path::Path};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{
    client::HubClient,
    error::HubError,
    reference::HubRef,
    select::{RepoFile, Selection},
    store::{RepoStore, create_parent},
    transfer::{FetchEvent, FetchObserver, Partial, Retries, Room, Tally, receive},
};

/// Files that arrive at the same time.
const PARALLEL_FILES: usize = 4;
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
    /// Most bytes that it may have.
    pub(crate) max_bytes: Option<u64>,
    /// Who watches.
    pub(crate) observer: &'a dyn FetchObserver,
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
        let title = self.model.title();
        let room = Room {
            title: &title,
            folder: &self.store.root(),
            max_bytes: self.max_bytes,
        };
        room.check(total_bytes, done_bytes)?;
        let tally = Tally::new(done_bytes, total_bytes, self.observer);
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
        let mut retries = Retries::default();
        while partial.len < file.size || file.size == 0 {
            let before = partial.len;
            let error = match self.client.open(self.model, self.commit, file, partial.len).await {
                Ok(answer) => {
                    if answer.offset != partial.len {
                        tally.subtract(partial.len);
                        partial.restart().map_err(HubError::io("cannot write", path))?;
                    }
                    receive(answer.response, &mut partial, Some(file.size), tally).await
                }
                Err(error) if error.is_unreachable() => Err(io::Error::other(error)),
                Err(error) => return Err(error),
            };
            let Err(error) = error else { break };
            if error.kind() == io::ErrorKind::StorageFull {
                return Err(HubError::io("cannot write", path)(error));
            }
            tracing::info!(file = file.path, at = partial.len, %error, "the download broke off; going on");
            if !retries.again(partial.len > before).await {
                return Err(HubError::BrokenOff {
                    file: file.path.clone(),
                    done_bytes: partial.len,
                    total_bytes: Some(file.size),
                    source: error,
                });
            }
        }
        partial.finish().map_err(HubError::io("cannot write", path))
    }
}
