//! What the cache holds, and how it is taken out again.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use super::{
    HubConfig,
    error::HubError,
    names,
    reference::{Choice, HubRef, has_gguf_extension},
    select::{Entry, RepoFile, quantization_label, select},
    store::{RepoStore, complete_entry, list_folder},
    web,
};

/// A model of the cache.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CachedModel {
    /// What `ferrum run` takes.
    pub(crate) name: String,
    /// `org/name`, or the address of a file.
    pub(crate) repository: String,
    /// The branch or tag that it is, else the commit; empty for a file of a web server.
    pub(crate) revision: String,
    /// The commit; empty for a file of a web server.
    pub(crate) commit: String,
    /// Bytes of its files.
    pub(crate) size_bytes: u64,
    /// Storage of its weights: `bf16`, `gguf Q4_K`, ….
    pub(crate) weights: Option<String>,
    /// What it is for.
    pub(crate) task: Option<String>,
    /// Its parameters.
    pub(crate) num_parameters: Option<u64>,
    /// Seconds since 1970 when it came.
    pub(crate) modified_unix: u64,
    /// Why it cannot be served as it is.
    pub(crate) problem: Option<String>,
    /// What an engine opens.
    pub(crate) path: PathBuf,
}

impl CachedModel {
    /// Fills in what the weights tell.
    pub(super) fn read_facts(&mut self) {
        match ferrum_models::open(&self.path) {
            Ok(checkpoint) => {
                let facts = checkpoint.facts();
                self.weights = Some(facts.weights.clone());
                self.task = Some(facts.task.to_string());
                self.num_parameters = Some(facts.num_parameters);
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }
}

/// Every model of the cache, by name. Data sets and other things that tools of the hub keep there are left out.
///
/// # Errors
/// [`HubError::Io`] when the cache cannot be read; a cache that does not exist is empty.
pub(crate) fn cached_models(config: &HubConfig) -> Result<Vec<CachedModel>, HubError> {
    let mut models = Vec::new();
    for folder in folders(&config.cache)? {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(repo) = name.strip_prefix("models--") else {
            models.extend(web::describe(&folder));
            continue;
        };
        // `--` stands for the slash; a name with `--` of its own has it after the first.
        let repo = repo.replacen("--", "/", 1);
        let store = RepoStore::new(&config.cache, &repo);
        let snapshots = folders(&folder.join("snapshots"))?;
        let mut found: Vec<_> = snapshots
            .iter()
            .flat_map(|snapshot| in_snapshot(&store, &repo, snapshot))
            .collect();
        if found.is_empty() {
            found.extend(partial(&store, &repo, &snapshots));
        }
        models.extend(found);
    }
    models.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.revision.cmp(&b.revision)));
    Ok(models)
}

/// Takes the files of `model` out of the cache; returns the bytes that are free now. Blobs that another snapshot
/// links to stay.
///
/// # Errors
/// [`HubError::NotCached`], [`HubError::Io`].
pub(crate) fn remove(model: &HubRef, config: &HubConfig) -> Result<u64, HubError> {
    let store = RepoStore::new(&config.cache, &model.repo);
    let root = store.root();
    let absent = || HubError::NotCached {
        model: model.title(),
        cache: config.cache.clone(),
    };
    if !root.exists() {
        return Err(absent());
    }
    let before = blob_bytes(&root);
    if let Some(commit) = store
        .commit(model.revision())
        .filter(|commit| store.snapshot(commit).exists())
    {
        let snapshot = store.snapshot(&commit);
        match &model.choice {
            Choice::Auto => {
                fs::remove_dir_all(&snapshot).map_err(HubError::io("cannot remove", &snapshot))?
            }
            choice => {
                let link = complete_entry(&snapshot, choice)
                    .ok()
                    .flatten()
                    .ok_or_else(absent)?;
                fs::remove_file(&link).map_err(HubError::io("cannot remove", &link))?;
            }
        }
    } else if model.choice != Choice::Auto || !folders(&root.join("snapshots"))?.is_empty() {
        return Err(absent());
    }
    sweep(&root)?;
    Ok(before.saturating_sub(blob_bytes(&root)))
}

/// The safetensors of a snapshot are one model, each GGUF file is another.
fn in_snapshot(store: &RepoStore, repo: &str, snapshot: &Path) -> Vec<CachedModel> {
    let files = list_folder(snapshot).unwrap_or_default();
    let (ggufs, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| has_gguf_extension(&file.path));
    let others: Vec<RepoFile> = others.into_iter().cloned().collect();
    let mut models = Vec::new();
    if let Ok(selection) = select(&others, &Choice::Auto) {
        debug_assert_eq!(selection.entry, Entry::Folder);
        let size_bytes = selection.files.iter().map(|file| file.size).sum();
        let whole = complete_entry(snapshot, &Choice::Auto).ok().flatten().is_some();
        let problem = (!whole).then(|| "incomplete; ferrum pull goes on".to_owned());
        models.push(describe(
            store,
            repo,
            snapshot.to_owned(),
            Found {
                label: None,
                size_bytes,
                problem,
            },
        ));
    }
    let lone = models.is_empty() && ggufs.len() == 1;
    for file in ggufs {
        let label = quantization_label(&file.path);
        let label = label.map_or_else(|| format!("/{}", file.path), |label| format!(":{label}"));
        let found = Found {
            label: (!lone).then_some(label),
            size_bytes: file.size,
            problem: None,
        };
        models.push(describe(store, repo, snapshot.join(&file.path), found));
    }
    models
}

struct Found {
    /// What follows the repository's name, where it holds several models.
    label: Option<String>,
    size_bytes: u64,
    problem: Option<String>,
}

fn describe(store: &RepoStore, repo: &str, path: PathBuf, found: Found) -> CachedModel {
    let snapshots = store.root().join("snapshots");
    let inner = path
        .strip_prefix(&snapshots)
        .ok()
        .and_then(|inner| inner.iter().next());
    let commit = inner.unwrap_or_default().to_string_lossy().into_owned();
    let revision = refs(store)
        .into_iter()
        .find(|name| store.commit(name).as_ref() == Some(&commit));
    let revision = revision.unwrap_or_else(|| commit.clone());
    let mut name = match (&found.label, revision.as_str()) {
        (None, "main") => names::short_name(repo).unwrap_or(repo).to_owned(),
        (_, "main") => repo.to_owned(),
        (_, revision) => format!("{repo}@{revision}"),
    };
    name.push_str(found.label.as_deref().unwrap_or_default());
    let mut model = CachedModel {
        name,
        repository: repo.to_owned(),
        revision,
        commit,
        size_bytes: found.size_bytes,
        weights: None,
        task: None,
        num_parameters: None,
        modified_unix: modified_unix(&path),
        problem: found.problem,
        path,
    };
    if model.problem.is_none() {
        model.read_facts();
    }
    model
}

/// A repository of which only a part has arrived.
fn partial(store: &RepoStore, repo: &str, snapshots: &[PathBuf]) -> Option<CachedModel> {
    let has_weights = |file: &RepoFile| file.size > (1 << 20) || file.path.ends_with(".incomplete");
    let blobs = store.root().join("blobs");
    list_folder(&blobs)
        .unwrap_or_default()
        .iter()
        .any(has_weights)
        .then(|| CachedModel {
            name: names::short_name(repo).unwrap_or(repo).to_owned(),
            repository: repo.to_owned(),
            revision: "main".to_owned(),
            commit: store.commit("main").unwrap_or_default(),
            size_bytes: blob_bytes(&store.root()),
            weights: None,
            task: None,
            num_parameters: None,
            modified_unix: modified_unix(&blobs),
            problem: Some("incomplete; ferrum pull goes on".to_owned()),
            path: snapshots.first().cloned().unwrap_or(blobs),
        })
}

/// Removes what nothing links to any more.
fn sweep(root: &Path) -> Result<(), HubError> {
    let snapshots = folders(&root.join("snapshots"))?;
    if snapshots.is_empty() {
        return fs::remove_dir_all(root).map_err(HubError::io("cannot remove", root));
    }
    let mut linked = HashSet::new();
    for snapshot in &snapshots {
        for file in list_folder(snapshot).unwrap_or_default() {
            linked.extend(snapshot.join(file.path).canonicalize().ok());
        }
    }
    let blobs = root.join("blobs");
    for file in list_folder(&blobs).unwrap_or_default() {
        let blob = blobs.join(&file.path);
        // A partial file may be another process's download.
        let dead = !file.path.ends_with(".incomplete")
            && blob.canonicalize().is_ok_and(|blob| !linked.contains(&blob));
        if dead {
            fs::remove_file(&blob).map_err(HubError::io("cannot remove", blob))?;
        }
    }
    Ok(())
}

/// Branches and tags with a commit in the cache; `main` first.
fn refs(store: &RepoStore) -> Vec<String> {
    let folder = store.root().join("refs");
    let mut names: Vec<_> = list_folder(&folder)
        .unwrap_or_default()
        .into_iter()
        .map(|file| file.path)
        .collect();
    names.sort_by_key(|name| (name != "main", name.clone()));
    names
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, HubError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HubError::io("cannot read", path)(error)),
    };
    let hidden = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.is_dir() && !hidden(path)).collect())
}

fn blob_bytes(root: &Path) -> u64 {
    list_folder(&root.join("blobs"))
        .unwrap_or_default()
        .iter()
        .map(|file| file.size)
        .sum()
}

/// When `path` changed last, in seconds since 1970; 0 where nobody knows.
pub(super) fn modified_unix(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let since = modified
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.unwrap_or_default().as_secs()
}
