//! One GGUF file of any web server, kept beside the hub's models:
//!
//! ```text
//! web--<id>/url                     the address; <id> is of its SHA-256
//! web--<id>/model.gguf              the file; model.gguf.incomplete while it arrives
//! web--<id>/validator               ETag or date of it; validator.incomplete of the part, which only it may continue
//! .locks/web--<id>.lock             held while it is written
//! ```
//!
//! A web server announces no hash. What it can be held to is checked: the announced length, and that the file begins
//! like GGUF. No credentials are sent.

mod download;

use std::{
    fs,
    path::{Path, PathBuf},
};

use ferrum_crds::ModelSource;
use sha2::{Digest as _, Sha256};

use self::download::Download;
use super::{
    CachedModel, HubConfig,
    error::HubError,
    list::modified_unix,
    store::{lock_file, write_atomically},
    transfer::{FetchEvent, FetchObserver, hex},
};

/// How a GGUF file begins.
pub(super) const GGUF_MAGIC: &[u8; 4] = b"GGUF";
/// What the names of all such folders begin with.
const PREFIX: &str = "web--";

/// A GGUF file of a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebRef {
    url: String,
}

impl WebRef {
    /// Parses an address as a manifest has it; `http://` is taken too where it does not leave this machine.
    ///
    /// # Errors
    /// What is allowed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let https = match text.strip_prefix("http://") {
            Some(rest) if is_this_machine(rest) => format!("https://{rest}"),
            Some(_) => return Err("expected https://, as http:// is taken from 127.0.0.1 only".to_owned()),
            None => text.to_owned(),
        };
        match ModelSource::parse(&https) {
            Ok(ModelSource::Web { .. }) => Ok(Self { url: text.to_owned() }),
            Ok(_) => Err("expected https://host/path.gguf".to_owned()),
            Err(expected) => Err(format!("expected {expected}")),
        }
    }

    /// The whole address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The name of the file without `.gguf`.
    pub(crate) fn title(&self) -> &str {
        let name = self.url.rsplit('/').next().unwrap_or(&self.url);
        name.strip_suffix(".gguf").unwrap_or(name)
    }
}

fn is_this_machine(rest: &str) -> bool {
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    matches!(host, "127.0.0.1" | "localhost")
}

/// The complete file, if it is in the cache.
pub(super) fn cached(model: &WebRef, config: &HubConfig) -> Option<PathBuf> {
    let file = Place::of(model, config).file();
    file.is_file().then_some(file)
}

/// Brings the file as the server has it now; one that is in the cache and unchanged stays.
///
/// # Errors
/// See [`HubError`]; what has arrived stays for the next try.
pub(super) async fn fetch(
    model: &WebRef,
    config: &HubConfig,
    observer: &dyn FetchObserver,
) -> Result<PathBuf, HubError> {
    let place = Place::of(model, config);
    let note = format!("another process downloads {}; waiting for it", model.url);
    let _lock = lock_file(place.lock.clone(), || observer.on_event(FetchEvent::Note(&note))).await?;
    let download = Download {
        client: download::client(model)?,
        model,
        place: &place,
        max_bytes: config.max_bytes,
        observer,
    };
    if place.file().is_file() && download.is_unchanged().await? {
        return Ok(place.file());
    }
    download.run().await?;
    Ok(place.file())
}

/// Takes the file out of the cache; returns its bytes.
pub(super) fn remove(model: &WebRef, config: &HubConfig) -> Result<u64, HubError> {
    let Place { folder, .. } = &Place::of(model, config);
    if !folder.exists() {
        return Err(HubError::NotCached {
            model: model.url.clone(),
            cache: config.cache.clone(),
        });
    }
    let bytes = size(folder);
    fs::remove_dir_all(folder).map_err(HubError::io("cannot remove", folder))?;
    Ok(bytes)
}

/// What a folder of the cache holds, if it is one of ours.
pub(super) fn describe(folder: &Path) -> Option<CachedModel> {
    folder.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let url = fs::read_to_string(folder.join("url")).ok()?;
    let path = folder.join("model.gguf");
    let is_whole = path.is_file();
    let mut model = CachedModel {
        name: url.clone(),
        repository: url,
        revision: String::new(),
        commit: String::new(),
        size_bytes: size(folder),
        weights: None,
        task: None,
        num_parameters: None,
        modified_unix: modified_unix(if is_whole { &path } else { folder }),
        problem: (!is_whole).then(|| "incomplete; ferrum pull goes on".to_owned()),
        path,
    };
    if is_whole {
        model.read_facts();
    }
    Some(model)
}

fn size(folder: &Path) -> u64 {
    let files = ["model.gguf", "model.gguf.incomplete"].map(|name| fs::metadata(folder.join(name)));
    files.into_iter().flatten().map(|metadata| metadata.len()).sum()
}

/// Where one address is kept.
struct Place {
    folder: PathBuf,
    lock: PathBuf,
}

/// Names what the complete file is.
const VALIDATOR: &str = "validator";
/// Names what the part that has arrived is of.
const VALIDATOR_OF_PART: &str = "validator.incomplete";

impl Place {
    fn of(model: &WebRef, config: &HubConfig) -> Self {
        let name = format!("{PREFIX}{}", hex(&Sha256::digest(&model.url)[..16]));
        Self {
            lock: config.cache.join(".locks").join(format!("{name}.lock")),
            folder: config.cache.join(name),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("model.gguf")
    }

    fn incomplete(&self) -> PathBuf {
        self.folder.join("model.gguf.incomplete")
    }

    /// Which file of the server is here, as it says itself: of `name`, one of the two below.
    fn validator(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join(name)).ok()?;
        (!text.is_empty()).then_some(text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), HubError> {
        let path = self.folder.join(name);
        write_atomically(&path, text.as_bytes()).map_err(HubError::io("cannot write", path))
    }
}
