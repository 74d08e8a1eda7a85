//! How a model is named on the command line and in a manifest.
//!
//! | form | means |
//! | --- | --- |
//! | `smollm2:135m` | a short name of [`names`] |
//! | `org/name` | a repository of the hub |
//! | `org/name@revision` | at a branch, tag or commit |
//! | `org/name:Q4_K_M` | its GGUF file of that quantization |
//! | `org/name/file.gguf` | one GGUF file of it |
//! | `hf://org/name@revision/file.gguf` | the same, spelled out |
//! | `https://huggingface.co/org/name` | the address of its page, or of a file on it |
//! | `https://host/path.gguf` | a GGUF file of any other web server |
//! | `/path`, `./path`, `.path`, `../path`, `~/path`, `file://path`, `name.gguf` | a folder or a .gguf file on disk |
//!
//! A revision that contains a slash is written with `%2F`, except `refs/pr/N`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{names, web::WebRef};

/// A model, as named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelRef {
    /// In a repository of the hub.
    Hub(HubRef),
    /// On disk.
    Local(PathBuf),
    /// A file of a web server.
    Web(WebRef),
}

/// A model in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubRef {
    /// `org/name`.
    pub(crate) repo: String,
    /// Branch, tag or commit; `None` is `main`.
    pub(crate) revision: Option<String>,
    /// Which weights, where the repository has several.
    pub(crate) choice: Choice,
}

/// Which weights of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The safetensors, or else the only GGUF file.
    Auto,
    /// This GGUF file.
    File(String),
    /// The GGUF file of this quantization (`Q4_K_M`).
    Quantization(String),
}

/// A text that names no model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a model: {reason}")]
pub(crate) struct RefError {
    text: String,
    reason: String,
}

impl HubRef {
    /// Branch, tag or commit.
    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The short name when it has one, else the repository: what a person calls it.
    pub(crate) fn title(&self) -> String {
        match (names::short_name(&self.repo), &self.revision, &self.choice) {
            (Some(short), None, Choice::Auto) => short.to_owned(),
            _ => self.to_string().trim_start_matches("hf://").to_owned(),
        }
    }

    /// The OpenAI `model` names that it answers to: the short name where there is one, and the repository.
    pub(crate) fn served_names(&self) -> Vec<String> {
        let short = names::short_name(&self.repo).map(str::to_owned);
        short.into_iter().chain([self.repo.clone()]).collect()
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.repo)?;
        if let Some(revision) = &self.revision {
            let escaped = if is_pull_request(revision) {
                revision.clone()
            } else {
                revision.replace('/', "%2F")
            };
            write!(f, "@{escaped}")?;
        }
        match &self.choice {
            Choice::Auto => Ok(()),
            Choice::File(file) => write!(f, "/{file}"),
            Choice::Quantization(label) => write!(f, ":{label}"),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.fmt(f),
            Self::Local(path) => write!(f, "file://{}", path.display()),
            Self::Web(web) => f.write_str(web.url()),
        }
    }
}

impl FromStr for ModelRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let refuse = |reason: String| RefError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(refuse(
                "expected a short name, org/name, a folder or a .gguf file".to_owned(),
            ));
        }
        if let Some(path) = ferrum_engine::local_path(text) {
            return Ok(Self::Local(path));
        }
        let spelled = strip_host(text);
        if spelled.contains("://") {
            return WebRef::parse(text).map(Self::Web).map_err(refuse);
        }
        if let Some(repo) = names::repository(text) {
            return Ok(Self::Hub(HubRef {
                repo: repo.to_owned(),
                revision: None,
                choice: Choice::Auto,
            }));
        }
        if !spelled.contains('/') && !text.starts_with("hf://") {
            return Err(refuse(unknown_short_name(text)));
        }
        parse_hub(&spelled).map(Self::Hub).map_err(refuse)
    }
}

/// `hf://…`, or the address of a page copied from a browser, as `org/name[@revision][/file]`.
fn strip_host(text: &str) -> String {
    if let Some(rest) = text.strip_prefix("hf://") {
        return rest.trim_end_matches('/').to_owned();
    }
    let hosts = [
        "https://huggingface.co/",
        "https://hf.co/",
        "huggingface.co/",
        "hf.co/",
    ];
    let Some(rest) = hosts.iter().find_map(|host| text.strip_prefix(host)) else {
        return text.trim_end_matches('/').to_owned();
    };
    let parts: Vec<_> = rest.trim_end_matches('/').split('/').collect();
    match parts.as_slice() {
        [org, name, "tree" | "blob" | "resolve", revision, file @ ..] => {
            let file: String = file.iter().map(|part| format!("/{part}")).collect();
            format!("{org}/{name}@{revision}{file}")
        }
        _ => parts.join("/"),
    }
}

fn parse_hub(text: &str) -> Result<HubRef, String> {
    let (repo, revision, file) = match text.split_once('@') {
        Some((repo, rest)) => {
            let (revision, file) = split_revision(rest)?;
            (repo.to_owned(), Some(revision), file)
        }
        None => {
            let (repo, file) = split_repo(text);
            (repo, None, file)
        }
    };
    // A label may follow the repository (`org/name:Q8_0`) or the revision (`org/name@main:Q8_0`).
    let (repo, repo_label) = split_label(repo);
    let (revision, revision_label) = match revision.map(split_label) {
        Some((revision, label)) => (Some(revision), label),
        None => (None, None),
    };
    check_repo(&repo)?;
    let choice = match (file, repo_label.or(revision_label)) {
        (Some(file), _) if !has_gguf_extension(&file) => {
            return Err(format!(
                "`{file}` cannot be served alone, only a .gguf file can; name the repository"
            ));
        }
        (Some(_), Some(label)) => return Err(format!("it names both a file and a quantization (`{label}`)")),
        (Some(file), None) => Choice::File(file),
        (None, Some(label)) => Choice::Quantization(label),
        (None, None) => Choice::Auto,
    };
    Ok(HubRef {
        repo,
        revision: revision.filter(|revision| revision != "main"),
        choice,
    })
}

/// `org/name/some/file.gguf` into repository and file.
fn split_repo(text: &str) -> (String, Option<String>) {
    let mut parts = text.splitn(3, '/');
    let repo: Vec<_> = parts.by_ref().take(2).collect();
    (repo.join("/"), parts.next().map(str::to_owned))
}

/// What follows the `@`: a revision, then perhaps a file.
fn split_revision(rest: &str) -> Result<(String, Option<String>), String> {
    let parts: Vec<_> = rest.split('/').collect();
    let taken = if parts.len() >= 3 && parts[0] == "refs" {
        3
    } else {
        1
    };
    let (revision, file) = parts.split_at(taken);
    let revision = revision.join("/").replace("%2F", "/").replace("%2f", "/");
    check_revision(revision.split(':').next().unwrap_or_default())?;
    Ok((revision, (!file.is_empty()).then(|| file.join("/"))))
}

fn split_label(text: String) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((start, label)) => (start.to_owned(), Some(label.to_owned())),
        None => (text, None),
    }
}

fn check_repo(repo: &str) -> Result<(), String> {
    let parts: Vec<_> = repo.split('/').collect();
    let is_word = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if parts.len() > 2 || !parts.iter().all(is_word) {
        return Err("expected org/name of letters, digits, `-`, `_` and `.`".to_owned());
    }
    Ok(())
}

/// A revision becomes a path under `refs/`: it must stay there.
fn check_revision(revision: &str) -> Result<(), String> {
    if revision.is_empty() {
        return Err("the revision after `@` is empty".to_owned());
    }
    let sound = revision
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..")
        && revision
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+'));
    if sound {
        Ok(())
    } else {
        Err(format!("`{revision}` is not a branch, tag or commit"))
    }
}

fn is_pull_request(revision: &str) -> bool {
    revision.starts_with("refs/") && revision.split('/').count() == 3
}

fn unknown_short_name(text: &str) -> String {
    let near = names::suggestions(text);
    match near.as_slice() {
        [] => {
            let all: Vec<_> = names::all().collect();
            format!(
                "expected org/name of the hub, a path (./{text}), or a short name ({})",
                all.join(", ")
            )
        }
        many => format!("no such short name; did you mean {}?", many.join(", ")),
    }
}

/// Whether `text` ends in `.gguf`.
pub(crate) fn has_gguf_extension(text: &str) -> bool {
    text.len() > 5 && text.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
