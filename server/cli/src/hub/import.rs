//! `ferrum pull MODEL --from PATH`: files from disk enter the cache under the name of a repository, for machines
//! that the hub does not reach.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    client::is_hex,
    error::HubError,
    reference::{Choice, HubRef},
    select::{Entry, RepoFile, select},
    store::{RepoStore, complete_entry, create_parent, link_into, list_folder},
    transfer::hex,
    web::GGUF_MAGIC,
};

const READ_SIZE: usize = 1 << 20;

/// Copies the model at `path` (a folder or a .gguf file) into the cache as `model`; returns what the engine opens.
///
/// All or nothing: the name means the new files only once every byte of them is in the cache.
///
/// # Errors
/// [`HubError::NotAModel`] when `path` holds none, [`HubError::Io`] when it cannot be copied.
pub(crate) fn import(store: &RepoStore, model: &HubRef, path: &Path) -> Result<PathBuf, HubError> {
    let sources = sources(path, &model.choice)?;
    let mut files = Vec::with_capacity(sources.len());
    for (name, source) in &sources {
        files.push((name, copy_blob(store, source)?));
    }
    let commit = if is_hex(model.revision(), 40) {
        model.revision().to_owned()
    } else {
        commit_of(&files)
    };
    let snapshot = store.snapshot(&commit);
    let staged = snapshot.with_file_name(format!(".{commit}.{}", std::process::id()));
    for (name, sha256) in &files {
        link_into(&staged, name, sha256)?;
    }
    publish(&staged, &snapshot)?;
    store.write_ref(model.revision(), &commit)?;
    store
        .cached(model)
        .ok_or_else(|| not_a_model(path, "it is incomplete"))
}

/// The files to copy, as (path in the repository, path on disk).
fn sources(path: &Path, choice: &Choice) -> Result<Vec<(String, PathBuf)>, HubError> {
    let metadata = fs::metadata(path).map_err(HubError::io("cannot read", path))?;
    if metadata.is_file() {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let file = RepoFile {
            path: name.clone(),
            size: metadata.len(),
            etag: String::new(),
            sha256: None,
        };
        // The name asked for must be found again under the choice that was made.
        let files = [file];
        let selection = select(&files, choice).map_err(|error| not_a_model(path, error))?;
        check_magic(path, selection.entry)?;
        return Ok(vec![(name, path.to_owned())]);
    }
    let files = list_folder(path).map_err(HubError::io("cannot read", path))?;
    let selection = select(&files, choice).map_err(|error| not_a_model(path, error))?;
    if complete_entry(path, choice).ok().flatten().is_none() {
        return Err(not_a_model(path, "shards of its weights are missing"));
    }
    if let Entry::Gguf(file) = selection.entry {
        check_magic(&path.join(file), selection.entry)?;
    }
    Ok(selection
        .files
        .iter()
        .map(|file| (file.path.clone(), path.join(&file.path)))
        .collect())
}

fn check_magic(path: &Path, entry: Entry<'_>) -> Result<(), HubError> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match (read, entry) {
        (Ok(()), Entry::Gguf(_)) if magic != *GGUF_MAGIC => {
            Err(not_a_model(path, "it does not begin with GGUF"))
        }
        (Err(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(not_a_model(path, "it is empty"))
        }
        (Err(error), _) => Err(HubError::io("cannot read", path)(error)),
        (Ok(()), _) => Ok(()),
    }
}

/// Copies a file to the blob of its SHA-256, unless that is there.
fn copy_blob(store: &RepoStore, source: &Path) -> Result<String, HubError> {
    let beside = store.blob(&format!(".import.{}", std::process::id()));
    create_parent(&beside)?;
    let copied = copy_hashed(source, &beside).map_err(HubError::io("cannot copy", source));
    let sha256 = copied.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    let blob = store.blob(&sha256);
    fs::rename(&beside, &blob).map_err(HubError::io("cannot write", blob))?;
    Ok(sha256)
}

fn copy_hashed(source: &Path, target: &Path) -> io::Result<String> {
    let (mut source, mut target) = (File::open(source)?, File::create(target)?);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            target.sync_all()?;
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
        target.write_all(&buffer[..read])?;
    }
}

/// A commit of our own making: the same files give the same one.
fn commit_of(files: &[(&String, String)]) -> String {
    let mut hash = Sha256::new();
    for (name, sha256) in files {
        hash.update(format!("{sha256} {name}\n"));
    }
    hex(&hash.finalize()[..20])
}

/// Moves a snapshot to its place; files that are there already, from another import of the same commit, stay.
fn publish(staged: &Path, snapshot: &Path) -> Result<(), HubError> {
    if fs::rename(staged, snapshot).is_ok() {
        return Ok(());
    }
    for file in list_links(staged)? {
        let target = snapshot.join(file.strip_prefix(staged).unwrap_or(&file));
        create_parent(&target)?;
        fs::rename(&file, &target).map_err(HubError::io("cannot write", target))?;
    }
    fs::remove_dir_all(staged).map_err(HubError::io("cannot remove", staged))
}

fn list_links(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let files = list_folder(folder).map_err(HubError::io("cannot read", folder))?;
    Ok(files.iter().map(|file| folder.join(&file.path)).collect())
}

fn not_a_model(path: &Path, reason: impl ToString) -> HubError {
    HubError::NotAModel {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
