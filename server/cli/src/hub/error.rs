//! What can go wrong between a reference and weights on disk, and what to do about it.

use std::{io, path::PathBuf};

use super::select::SelectError;
use crate::{exit::root_cause, text::format_bytes};

/// Why a model could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    /// The hub does not know the token.
    #[error("the hub refused the access token")]
    BadToken,
    /// What arrived is not what the hub describes.
    #[error("{file} arrived damaged: its {what} is {got}, the hub says {expected}")]
    Corrupt {
        file: String,
        what: &'static str,
        got: String,
        expected: String,
    },
    /// A download broke off more often than is worth retrying.
    #[error("the download of {file} broke off at {done_bytes}{} bytes", of(*.total_bytes))]
    BrokenOff {
        file: String,
        done_bytes: u64,
        total_bytes: Option<u64>,
        source: io::Error,
    },
    /// The repository's licence was not accepted.
    #[error("{repo} is gated: its owner asks for a licence to be accepted first")]
    Gated {
        repo: String,
        page: String,
        has_token: bool,
    },
    /// Nothing answers at the address of a file.
    #[error("cannot reach {url}")]
    HostUnreachable { url: String, source: NetworkError },
    /// The hub answers with something that cannot be used.
    #[error("{url} does not answer like a model hub: {reason}")]
    NotAHub { url: String, reason: String },
    /// Nothing answers.
    #[error("cannot reach the model hub at {endpoint}")]
    NoNetwork { endpoint: String, source: NetworkError },
    /// What the address holds is something else.
    #[error("{url} is not a GGUF file: {reason}")]
    NotGguf { url: String, reason: String },
    /// Not in the cache, and no request is allowed.
    #[error("{repo} is not in {}, and HF_HUB_OFFLINE forbids to download it", .cache.display())]
    Offline { repo: String, cache: PathBuf },
    /// The disk is too small.
    #[error(
        "no space for {repo}: {} needed, {} free in {}",
        format_bytes(*.needed_bytes), format_bytes(*.free_bytes), .cache.display()
    )]
    NoSpace {
        repo: String,
        needed_bytes: u64,
        free_bytes: u64,
        cache: PathBuf,
    },
    /// There is no such repository, or it is private.
    #[error("the hub has no repository {repo}, or it is private")]
    RepoNotFound {
        repo: String,
        near: Vec<&'static str>,
        has_token: bool,
    },
    /// There is no such revision.
    #[error("{repo} has no branch, tag or commit {revision}")]
    RevisionNotFound {
        repo: String,
        revision: String,
        page: String,
    },
    /// None of its files can be served.
    #[error("{repo} cannot be served: {source}")]
    Select { repo: String, source: SelectError },
    /// An answer that says no.
    #[error("the hub answered {status} to {url}{}", .message.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Status {
        status: u16,
        url: String,
        message: Option<String>,
        retry_after_seconds: Option<u64>,
    },
    /// More than may be fetched.
    #[error(
        "{model} has {} ({total_bytes} bytes), and at most {} ({max_bytes} bytes) may be fetched",
        format_bytes(*.total_bytes), format_bytes(*.max_bytes)
    )]
    TooLarge {
        model: String,
        total_bytes: u64,
        max_bytes: u64,
    },
    /// A web server that says no.
    #[error("{url} is answered with {status}")]
    WebStatus {
        url: String,
        status: reqwest::StatusCode,
    },
    /// A file of the cache cannot be read or written.
    #[error("{action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// What should be removed is not there.
    #[error("{model} is not in {}", .cache.display())]
    NotCached { model: String, cache: PathBuf },
    /// A path that is not a model.
    #[error("{} is not a model: {reason}", .path.display())]
    NotAModel { path: PathBuf, reason: String },
}

/// Why nothing answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// No connection, or a broken one.
    #[error("{}", root_cause(.0))]
    Http(reqwest::Error),
    /// The other side says nothing.
    #[error("no answer within 30 s")]
    Silent,
}

impl HubError {
    /// What to do about it, in the imperative; `None` where the message says it all.
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::BadToken => {
                "make a new one at https://huggingface.co/settings/tokens and set HF_TOKEN to it, or unset HF_TOKEN"
                    .to_owned()
            }
            Self::Corrupt { .. } => {
                "run the command again; if it stays so, a proxy or mirror (HF_ENDPOINT) alters the files".to_owned()
            }
            Self::BrokenOff { .. } => "run the command again; it goes on where it stopped".to_owned(),
            Self::Gated { page, has_token: true, .. } => {
                format!("accept the licence at {page} with the account of your HF_TOKEN, then run the command again")
            }
            Self::Gated { page, has_token: false, .. } => format!(
                "accept the licence at {page}, then set HF_TOKEN to a token of \
                 https://huggingface.co/settings/tokens"
            ),
            Self::NoNetwork { .. } => "check the network and HTTPS_PROXY, set HF_ENDPOINT to a mirror, or bring the \
                 files yourself: ferrum pull MODEL --from PATH"
                .to_owned(),
            Self::NotAHub { .. } => "check HF_ENDPOINT".to_owned(),
            Self::Offline { .. } => {
                "unset HF_HUB_OFFLINE, or bring the files yourself: ferrum pull MODEL --from PATH".to_owned()
            }
            Self::NoSpace { .. } => {
                "free some space (ferrum list, ferrum rm MODEL), or set HF_HOME to a larger disk".to_owned()
            }
            Self::RepoNotFound { near, has_token, .. } => missing_repo(near, *has_token),
            Self::RevisionNotFound { page, .. } => format!("see the revisions at {page}/tree/main"),
            Self::Select { repo, source } => return choose(repo, source),
            Self::Status { status: 429, retry_after_seconds, .. } => match retry_after_seconds {
                Some(seconds) => format!("too many requests; try again in {seconds} s, or set HF_TOKEN"),
                None => "too many requests; try again later, or set HF_TOKEN".to_owned(),
            },
            Self::Status { status: 500.., .. } => "the hub has trouble; try again later".to_owned(),
            Self::HostUnreachable { .. } => {
                "check the address, the network and HTTPS_PROXY, or download the file yourself and name its path".to_owned()
            }
            Self::NotGguf { .. } => "check the address: it must be that of the file, not of a page about it".to_owned(),
            Self::TooLarge { .. } => "raise the limit (spec.cache.size, --max-bytes) or choose a smaller model".to_owned(),
            Self::WebStatus { status, .. } => match status.as_u16() {
                401 | 403 => "no credentials are sent to web servers; download the file yourself and name its path".to_owned(),
                404 | 410 => "check the address".to_owned(),
                429 | 500.. => "try again later".to_owned(),
                _ => return None,
            },
            Self::NotCached { .. } => "ferrum list shows what is".to_owned(),
            Self::Status { .. } | Self::NotAModel { .. } => return None,
            Self::Io { source, .. } => return io_help(source),
        })
    }

    /// Whether the hub could not be asked, rather than said no.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::HostUnreachable { .. }
                | Self::NoNetwork { .. }
                | Self::Offline { .. }
                | Self::Status { status: 500.., .. }
        ) || matches!(self, Self::WebStatus { status, .. } if status.is_server_error())
    }

    /// For `map_err`: an error of a file operation.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn of(total_bytes: Option<u64>) -> String {
    total_bytes
        .map(|bytes| format!(" of {bytes}"))
        .unwrap_or_default()
}

fn missing_repo(near: &[&str], has_token: bool) -> String {
    let meant = match near {
        [] => "check the name".to_owned(),
        _ => format!("did you mean {}", near.join(" or ")),
    };
    let question = if near.is_empty() { ";" } else { "?" };
    if has_token {
        format!("{meant}{question} if it is private, HF_TOKEN must belong to an account that may read it")
    } else {
        format!("{meant}{question} if it is private, set HF_TOKEN")
    }
}

fn choose(repo: &str, error: &SelectError) -> Option<String> {
    match error {
        SelectError::Ambiguous { labels } => {
            Some(format!("choose one, for example {repo}:{}", labels.first()?))
        }
        SelectError::NoWeights { .. } => {
            Some("look for a repository with safetensors or GGUF files".to_owned())
        }
        _ => None,
    }
}

fn io_help(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some("free some space, or set HF_HOME to a larger disk".to_owned()),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("set HF_HOME to a folder that you may write".to_owned())
        }
        _ => None,
    }
}
