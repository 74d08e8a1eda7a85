//! From the name of a model to its files on this disk.
//!
//! `reference` reads the name, `names` knows the short ones, `select` says which files are needed, `store` is the cache
//! that all tools of the hub share, `client` and `download` bring what is missing, `web` does so from any web server,
//! `import` takes it from a folder.

mod client;
mod config;
mod download;
mod error;
mod import;
mod list;
pub(crate) mod names;
mod reference;
mod select;
mod store;
mod transfer;
mod web;

use std::path::{Path, PathBuf};

use self::{client::HubClient, download::Download, store::RepoStore};
pub(crate) use self::{
    config::HubConfig,
    error::HubError,
    list::{CachedModel, cached_models},
    reference::{HubRef, ModelRef, RefError},
    store::write_atomically,
    transfer::{FetchEvent, FetchObserver},
};

/// A model on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The folder or the .gguf file that an engine opens.
    pub(crate) path: PathBuf,
    /// Where it came from (`hf://…`, `file://…`).
    pub(crate) source: String,
    /// Names that it answers to unless others are given; the first is the main one.
    pub(crate) names: Vec<String>,
}

/// Finds `model` on this disk, or brings it from where it is. What is cached and complete costs no request.
///
/// # Errors
/// See [`HubError`].
pub(crate) async fn resolve(
    model: &ModelRef,
    config: &HubConfig,
    observer: &dyn FetchObserver,
) -> Result<Resolved, HubError> {
    if let ModelRef::Local(path) = model {
        return resolve_local(path);
    }
    let path = match cached(model, config) {
        Some(path) => path,
        None => pull(model, config, observer).await?,
    };
    let names = match model {
        ModelRef::Hub(hub) => hub.served_names(),
        ModelRef::Web(web) => vec![web.title().to_owned()],
        ModelRef::Local(_) => Vec::new(),
    };
    Ok(Resolved {
        path,
        source: model.to_string(),
        names,
    })
}

/// Whether [`resolve`] needs no request.
pub(crate) fn is_here(model: &ModelRef, config: &HubConfig) -> bool {
    matches!(model, ModelRef::Local(_)) || cached(model, config).is_some()
}

/// Brings the newest commit of the model's revision, or the file as its server has it now; what is here is kept. A
/// server that cannot be reached is no error while a complete copy is cached.
///
/// # Errors
/// See [`HubError`].
pub(crate) async fn pull(
    model: &ModelRef,
    config: &HubConfig,
    observer: &dyn FetchObserver,
) -> Result<PathBuf, HubError> {
    let cached = cached(model, config);
    let fetched = match model {
        _ if config.offline => Err(HubError::Offline {
            repo: model.to_string().trim_start_matches("hf://").to_owned(),
            cache: config.cache.clone(),
        }),
        ModelRef::Hub(hub) => fetch(hub, config, observer).await,
        ModelRef::Web(web) => web::fetch(web, config, observer).await,
        ModelRef::Local(path) => resolve_local(path).map(|found| found.path),
    };
    match (fetched, cached) {
        (Err(error), Some(path)) if error.is_unreachable() => {
            observer.on_event(FetchEvent::Note(&format!("{error}; the cached copy is used")));
            Ok(path)
        }
        (fetched, _) => fetched,
    }
}

/// The complete copy that is in the cache.
fn cached(model: &ModelRef, config: &HubConfig) -> Option<PathBuf> {
    match model {
        ModelRef::Hub(hub) => RepoStore::new(&config.cache, &hub.repo).cached(hub),
        ModelRef::Web(web) => web::cached(web, config),
        ModelRef::Local(_) => None,
    }
}

/// Takes the files of `model` out of the cache; returns the bytes that are free now.
///
/// # Errors
/// [`HubError::NotCached`], [`HubError::Io`].
pub(crate) fn remove(model: &ModelRef, config: &HubConfig) -> Result<u64, HubError> {
    match model {
        ModelRef::Hub(hub) => list::remove(hub, config),
        ModelRef::Web(web) => web::remove(web, config),
        ModelRef::Local(path) => Err(HubError::NotCached {
            model: path.display().to_string(),
            cache: config.cache.clone(),
        }),
    }
}

/// Copies a model from disk into the cache, under the name of `model`.
///
/// # Errors
/// See [`HubError`].
pub(crate) fn import(model: &HubRef, config: &HubConfig, path: &Path) -> Result<PathBuf, HubError> {
    import::import(&RepoStore::new(&config.cache, &model.repo), model, path)
}

async fn fetch(
    model: &HubRef,
    config: &HubConfig,
    observer: &dyn FetchObserver,
) -> Result<PathBuf, HubError> {
    let store = &RepoStore::new(&config.cache, &model.repo);
    let client = HubClient::new(config)?;
    let info = client.info(model).await?;
    let refuse = |source| HubError::Select {
        repo: model.repo.clone(),
        source,
    };
    let selection = select::select(&info.files, &model.choice).map_err(refuse)?;
    let download = Download {
        client: &client,
        store,
        model,
        commit: &info.commit,
        max_bytes: config.max_bytes,
        observer,
    };
    download.run(&selection).await?;
    store.write_ref(model.revision(), &info.commit)?;
    let incomplete = || HubError::NotAHub {
        url: config.page(&model.repo),
        reason: "its index names weights that it does not list".to_owned(),
    };
    store.cached(model).ok_or_else(incomplete)
}

fn resolve_local(path: &Path) -> Result<Resolved, HubError> {
    let not_a_model = |reason: String| HubError::NotAModel {
        path: path.to_owned(),
        reason,
    };
    let absolute = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_a_model("there is no such file or folder".to_owned()),
        _ => HubError::io("cannot read", path)(error),
    })?;
    if !absolute.is_dir() && !reference::has_gguf_extension(&absolute.to_string_lossy()) {
        return Err(not_a_model(
            "expected a folder with config.json and safetensors, or a .gguf file".to_owned(),
        ));
    }
    let title = absolute
        .file_stem()
        .filter(|_| absolute.is_file())
        .or(absolute.file_name());
    let title = title
        .unwrap_or(absolute.as_os_str())
        .to_string_lossy()
        .into_owned();
    Ok(Resolved {
        source: format!("file://{}", absolute.display()),
        path: absolute,
        names: vec![title],
    })
}
