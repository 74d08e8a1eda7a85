//! A model hub on 127.0.0.1: the two routes that a download uses, with redirects, ranges, and faults on request.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};

/// The commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does and has seen.
#[derive(Default)]
struct Inner {
    files: HashMap<String, Bytes>,
    /// Bytes after which the next answers of a file break off.
    break_after: HashMap<String, Vec<usize>>,
    /// The file's content is not what its listing says.
    damaged: Option<String>,
    /// Size that the listing claims of every large file.
    claimed_size: Option<u64>,
    /// Token that the repository asks for.
    token: Option<String>,
    gated: bool,
    /// Status of every answer that would have content.
    status: Option<u16>,
    requests: Vec<String>,
}

/// A running hub; it ends with the value.
pub(crate) struct FakeHub {
    /// For HF_ENDPOINT.
    pub(crate) endpoint: String,
    inner: Arc<Mutex<Inner>>,
    _runtime: tokio::runtime::Runtime,
}

impl FakeHub {
    /// Serves `files` as the repository `org/model`.
    pub(crate) fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let inner = Inner {
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into()))
                .collect(),
            ..Inner::default()
        };
        let inner = Arc::new(Mutex::new(inner));
        let app = Router::new()
            .route("/api/models/org/model/revision/{revision}", get(info))
            .route("/org/model/resolve/{commit}/{*file}", get(resolve))
            .route("/cdn/{*file}", get(content))
            .fallback(missing)
            .with_state(Arc::clone(&inner));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            endpoint,
            inner,
            _runtime: runtime,
        }
    }

    /// Breaks the next answers of `file` off, each after so many bytes.
    pub(crate) fn break_after(&self, file: &str, bytes: &[usize]) {
        self.inner()
            .break_after
            .insert(file.to_owned(), bytes.iter().rev().copied().collect());
    }

    /// Sends other bytes than `file` has.
    pub(crate) fn damage(&self, file: &str) {
        self.inner().damaged = Some(file.to_owned());
    }

    /// Lists every large file with this size.
    pub(crate) fn claim_size(&self, bytes: u64) {
        self.inner().claimed_size = Some(bytes);
    }

    /// Asks for this token; without it there is no such repository.
    pub(crate) fn make_private(&self, token: &str) {
        self.inner().token = Some(token.to_owned());
    }

    /// Refuses files until a licence is accepted, which never happens.
    pub(crate) fn make_gated(&self) {
        self.inner().gated = true;
    }

    /// Answers every request for content with this status.
    pub(crate) fn answer_with(&self, status: u16) {
        self.inner().status = Some(status);
    }

    /// Changes the content of `file`.
    pub(crate) fn replace(&self, file: &str, bytes: Vec<u8>) {
        self.inner().files.insert(file.to_owned(), bytes.into());
    }

    /// Requests so far, as `path` or `path range`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds the hub")
    }
}

type Shared = State<Arc<Mutex<Inner>>>;

fn refuse(status: StatusCode, code: &'static str, message: &str) -> Response {
    let body = serde_json::json!({ "error": message }).to_string();
    (status, [("x-error-code", code)], body).into_response()
}

/// Why a request is refused, if it is.
fn unauthorised(inner: &Inner, headers: &HeaderMap) -> Option<Response> {
    let token = inner.token.as_ref()?;
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    match given {
        Some(given) if given == format!("Bearer {token}") => None,
        Some(_) => Some(refuse(
            StatusCode::UNAUTHORIZED,
            "",
            "Invalid credentials in Authorization header",
        )),
        None => Some(refuse(
            StatusCode::UNAUTHORIZED,
            "RepoNotFound",
            "Repository not found",
        )),
    }
}

async fn info(State(inner): Shared, Path(revision): Path<String>, headers: HeaderMap) -> Response {
    let mut inner = inner.lock().expect("not poisoned");
    inner.requests.push(format!("info {revision}"));
    if let Some(refusal) = unauthorised(&inner, &headers) {
        return refusal;
    }
    if !["main", "v1", "refs/pr/7", COMMIT].contains(&revision.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    }
    let siblings: Vec<_> = inner
        .files
        .iter()
        .map(|(name, bytes)| sibling(name, bytes, inner.claimed_size))
        .collect();
    axum::Json(serde_json::json!({ "id": "org/model", "sha": COMMIT, "siblings": siblings })).into_response()
}

/// Large files are in LFS and have a SHA-256; small ones have git's id alone.
fn sibling(name: &str, bytes: &Bytes, claimed_size: Option<u64>) -> serde_json::Value {
    let digest = hex(bytes);
    let mut value = serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": digest[..40] });
    if !name.ends_with(".json") {
        value["lfs"] = serde_json::json!({ "sha256": digest, "size": claimed_size.unwrap_or(bytes.len() as u64), "pointerSize": 134 });
    }
    value
}

fn hex(bytes: &Bytes) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refusal(inner: &Inner, headers: &HeaderMap) -> Option<Response> {
    let gated = || {
        refuse(
            StatusCode::FORBIDDEN,
            "GatedRepo",
            "Access to org/model is restricted",
        )
    };
    unauthorised(inner, headers).or_else(|| inner.gated.then(gated))
}

/// Large files are redirected, as the real hub does.
async fn resolve(
    State(inner): Shared,
    Path((_, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refusal(&inner.lock().expect("not poisoned"), &headers) {
        return refusal;
    }
    if file.ends_with(".json") {
        return content(State(inner), Path(file), headers).await;
    }
    (StatusCode::FOUND, [(header::LOCATION, format!("/cdn/{file}"))]).into_response()
}

async fn content(State(inner): Shared, Path(file): Path<String>, headers: HeaderMap) -> Response {
    let mut inner = inner.lock().expect("not poisoned");
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let log = [file.as_str(), range.as_deref().unwrap_or_default()].join(" ");
    inner.requests.push(log.trim_end().to_owned());
    let Some(bytes) = inner.files.get(&file).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Some(status) = inner.status {
        return StatusCode::from_u16(status).expect("a status").into_response();
    }
    let etag = format!("\"{}\"", hex(&bytes));
    let asks = |name: header::HeaderName| headers.get(name).map(|value| value == etag.as_str());
    if asks(header::IF_NONE_MATCH) == Some(true) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let start = range
        .filter(|_| asks(header::IF_RANGE) != Some(false))
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let total = bytes.len();
    let mut body = bytes.slice(start..).to_vec();
    if inner.damaged.as_ref() == Some(&file) {
        body.iter_mut().for_each(|byte| *byte ^= 1);
    }
    let status = if start > 0 {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let range = format!("bytes {start}-{}/{total}", total - 1);
    let length = body.len();
    let headers = [
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_RANGE, range),
        (header::ETAG, etag),
    ];
    let kept = inner.break_after.get_mut(&file).and_then(Vec::pop);
    let body = match kept {
        None => Body::from(body),
        Some(kept) => broken(body, kept),
    };
    (status, headers, body).into_response()
}

/// Announces all of `bytes` and closes the connection after some of them.
fn broken(mut bytes: Vec<u8>, kept: usize) -> Body {
    bytes.truncate(kept);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(2);
    tokio::spawn(async move {
        let _ = sender.send(Ok(bytes.into())).await;
        // An error at once would take the bytes before it along: they must be on the wire first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = sender.send(Err(std::io::Error::other("broken on request"))).await;
    });
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    }))
}

async fn missing() -> Result<Response, Infallible> {
    Ok(refuse(
        StatusCode::UNAUTHORIZED,
        "RepoNotFound",
        "Repository not found",
    ))
}
