//! A server that speaks the model hub's API, for clusters that cannot reach the real one.
//!
//! Two routes are what a download uses: the listing of a revision, and a file of it. What a repository has and how it
//! misbehaves is told at the start; the same repositories serve every test, as a real hub would.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::Body,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One repository.
#[derive(Clone, Debug, Default)]
pub struct Repo {
    files: BTreeMap<String, HubFile>,
    /// Token that it asks for; without it there is no such repository.
    token: Option<String>,
    /// Its files are refused until a licence is accepted, which never happens.
    is_gated: bool,
    /// Between two pieces of a file.
    pause: Duration,
}

/// Bytes of a file that are sent at once.
const PIECE: usize = 1 << 18;

#[derive(Clone, Debug)]
struct HubFile {
    path: PathBuf,
    size: u64,
    sha256: String,
}

impl Repo {
    /// A repository with the files of `folder` and the folders below it.
    ///
    /// # Errors
    /// The folder or a file cannot be read.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut repo = Self::default();
        repo.add_folder(folder, "")?;
        Ok(repo)
    }

    /// A repository with one file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let mut repo = Self::default();
        repo.add(path, "")?;
        Ok(repo)
    }

    /// It is there for this token only.
    #[must_use]
    pub fn private(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Its licence was not accepted.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.is_gated = true;
        self
    }

    /// Its files come no faster than `bytes_per_second`.
    #[must_use]
    pub fn slow(mut self, bytes_per_second: u32) -> Self {
        self.pause = Duration::from_secs_f64(PIECE as f64 / f64::from(bytes_per_second));
        self
    }

    /// The listing tells another SHA-256 of this file than it has.
    ///
    /// # Panics
    /// There is no such file.
    #[must_use]
    pub fn damaged(mut self, name: &str) -> Self {
        self.files.get_mut(name).expect("a file of it").sha256 = "0".repeat(64);
        self
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) -> anyhow::Result<()> {
        for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                self.add_folder(&path, &format!("{prefix}{}/", file_name(&path)?))?;
            } else {
                self.add(&path, prefix)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, prefix: &str) -> anyhow::Result<()> {
        let (mut source, mut hash) = (fs::File::open(path)?, Sha256::new());
        let (mut chunk, mut size) = (vec![0; 1 << 20], 0);
        loop {
            let read = source.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            size += read as u64;
        }
        let mut sha256 = String::new();
        for byte in hash.finalize() {
            write!(sha256, "{byte:02x}")?;
        }
        let name = format!("{prefix}{}", file_name(path)?);
        let path = path.to_owned();
        self.files.insert(name, HubFile { path, size, sha256 });
        Ok(())
    }

    /// Why a request is refused, if it is.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        match (&self.token, given) {
            (Some(token), Some(given)) if *given == format!("Bearer {token}") => None,
            (Some(_), Some(_)) => Some(refuse(StatusCode::UNAUTHORIZED, "", "Invalid credentials")),
            (Some(_), None) => Some(not_found()),
            (None, _) => None,
        }
    }
}

fn file_name(path: &Path) -> anyhow::Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| path.display().to_string())
}

/// The routes of a hub with these repositories, by `org/name`.
pub fn routes(repos: BTreeMap<String, Repo>) -> Router {
    Router::new()
        .route("/api/models/{org}/{name}/revision/{revision}", get(listing))
        .route("/{org}/{name}/resolve/{revision}/{*file}", get(file))
        .fallback(|| async { not_found() })
        .with_state(Arc::new(repos))
}

type Repos = State<Arc<BTreeMap<String, Repo>>>;

fn refuse(status: StatusCode, code: &'static str, message: &str) -> Response {
    (
        status,
        [("x-error-code", code)],
        Json(json!({ "error": message })),
    )
        .into_response()
}

/// The hub does not tell whether a repository is private or is not.
fn not_found() -> Response {
    refuse(StatusCode::UNAUTHORIZED, "RepoNotFound", "Repository not found")
}

async fn listing(
    State(repos): Repos,
    UrlPath((org, name, revision)): UrlPath<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let id = format!("{org}/{name}");
    let Some(repo) = repos.get(&id) else {
        return not_found();
    };
    if let Some(refusal) = repo.refusal(&headers) {
        return refusal;
    }
    if !["main", COMMIT].contains(&revision.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    }
    let siblings: Vec<_> = repo
        .files
        .iter()
        .map(|(name, file)| {
            let lfs = json!({ "sha256": file.sha256, "size": file.size, "pointerSize": 134 });
            json!({ "rfilename": name, "size": file.size, "blobId": file.sha256[..40], "lfs": lfs })
        })
        .collect();
    Json(json!({ "id": id, "sha": COMMIT, "siblings": siblings })).into_response()
}

async fn file(
    State(repos): Repos,
    UrlPath((org, name, _, file)): UrlPath<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(repo) = repos.get(&format!("{org}/{name}")) else {
        return not_found();
    };
    if let Some(refusal) = repo.refusal(&headers) {
        return refusal;
    }
    if repo.is_gated {
        return refuse(StatusCode::FORBIDDEN, "GatedRepo", "Access is restricted");
    }
    let Some(file) = repo.files.get(&file) else {
        return refuse(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found");
    };
    content(file, &headers, repo.pause)
        .await
        .unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
}

/// The bytes from `Range: bytes=N-` on, or all of them.
async fn content(file: &HubFile, headers: &HeaderMap, pause: Duration) -> io::Result<Response> {
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
        .unwrap_or(0)
        .min(file.size);
    let mut source = tokio::fs::File::open(&file.path).await?;
    source.seek(io::SeekFrom::Start(start)).await?;
    let chunks = futures_util::stream::unfold(source, move |mut source| async move {
        let mut chunk = vec![0; PIECE];
        tokio::time::sleep(pause).await;
        match source.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(chunk), source))
            }
            Err(error) => Some((Err(error), source)),
        }
    });
    let (status, size) = (
        if start > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        },
        file.size,
    );
    let headers = [
        (header::CONTENT_LENGTH, (size - start).to_string()),
        (
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{size}", size.saturating_sub(1)),
        ),
        (header::ETAG, format!("\"{}\"", file.sha256)),
    ];
    Ok((status, headers, Body::from_stream(chunks)).into_response())
}
