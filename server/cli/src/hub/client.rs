//! The hub's HTTP interface, as much as a download needs: what a revision holds, and the bytes of a file.
//!
//! `hf-hub` knows the addresses, the headers and the layout of the cache. The transfer itself is ours: `hf-hub` links a
//! file into its snapshot before anyone can compare its hash, waits for ever on a silent connection, gives up after
//! five seconds when another process holds the lock, and drops the header that tells why the hub says no.

use std::time::Duration;

use hf_hub::{
    Repo, RepoType,
    api::tokio::{Api, ApiBuilder, ApiRepo},
};
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE, RETRY_AFTER},
};
use serde::Deserialize;

use super::{
    HubConfig,
    error::{HubError, NetworkError},
    names,
    reference::HubRef,
    select::RepoFile,
};

/// Longest silence, before an answer and in the middle of one.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// A list of files longer than this is not one of a model.
const MAX_FILES: usize = 10_000;

/// A client of one hub.
pub(crate) struct HubClient {
    config: HubConfig,
    api: Api,
}

/// What a revision holds.
#[derive(Debug)]
pub(crate) struct RepoInfo {
    /// The commit, 40 hexadecimal digits.
    pub(crate) commit: String,
    /// Its files.
    pub(crate) files: Vec<RepoFile>,
}

/// An answer that holds a file from `offset` on.
pub(crate) struct Download {
    /// First byte of the file in the answer: what was asked for, or 0 where the server cannot resume.
    pub(crate) offset: u64,
    /// The bytes.
    pub(crate) response: Response,
}

impl HubClient {
    /// A client that has not made a request yet.
    ///
    /// # Errors
    /// [`HubError::NotAHub`] when the token cannot be sent, or TLS not be set up.
    pub(crate) fn new(config: &HubConfig) -> Result<Self, HubError> {
        let api = ApiBuilder::new()
            .with_endpoint(config.endpoint.clone())
            .with_cache_dir(config.cache.clone())
            .with_token(config.token.clone())
            .with_user_agent("ferrum", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| HubError::NotAHub {
                url: config.endpoint.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            config: config.clone(),
            api,
        })
    }

    /// What the revision of `model` holds: one request.
    pub(crate) async fn info(&self, model: &HubRef) -> Result<RepoInfo, HubError> {
        let request = self
            .repo(model, model.revision())
            .info_request()
            .query(&[("blobs", "true")]);
        let response = self.check(self.send(request).await?, model).await?;
        let url = response.url().to_string();
        let body = match tokio::time::timeout(SILENCE, response.bytes()).await {
            Ok(body) => body.map_err(|error| self.no_network(NetworkError::Http(error)))?,
            Err(_) => return Err(self.no_network(NetworkError::Silent)),
        };
        let not_a_hub = |reason: String| HubError::NotAHub {
            url: url.clone(),
            reason,
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| not_a_hub(error.to_string()))?;
        answer.into_info().map_err(not_a_hub)
    }

    /// The bytes of `file` at `commit`, from `offset` on where the server can do that.
    pub(crate) async fn open(
        &self,
        model: &HubRef,
        commit: &str,
        file: &RepoFile,
        offset: u64,
    ) -> Result<Download, HubError> {
        let path: Vec<_> = file.path.split('/').map(escape).collect();
        let url = self.repo(model, commit).url(&path.join("/"));
        tracing::debug!(url, offset, "download");
        let get = || self.api.client().get(&url);
        let from = |offset: u64| get().header(RANGE, format!("bytes={offset}-"));
        let mut response = self.send(if offset > 0 { from(offset) } else { get() }).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
            response = self.send(get()).await?;
        }
        let response = self.check(response, model).await?;
        let offset = if response.status() == StatusCode::PARTIAL_CONTENT {
            range_start(&response)
        } else {
            0
        };
        Ok(Download { offset, response })
    }

    fn repo(&self, model: &HubRef, revision: &str) -> ApiRepo {
        self.api.repo(Repo::with_revision(
            model.repo.clone(),
            RepoType::Model,
            revision.to_owned(),
        ))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, HubError> {
        match tokio::time::timeout(SILENCE, request.send()).await {
            Ok(answer) => answer.map_err(|error| self.no_network(NetworkError::Http(error.without_url()))),
            Err(_) => Err(self.no_network(NetworkError::Silent)),
        }
    }

    fn no_network(&self, source: NetworkError) -> HubError {
        HubError::NoNetwork {
            endpoint: self.config.endpoint.clone(),
            source,
        }
    }

    /// An answer that says yes, or why not. The hub tells the reason in `X-Error-Code`; without a token it answers
    /// 401 for a repository that does not exist, so that private names stay private.
    async fn check(&self, response: Response, model: &HubRef) -> Result<Response, HubError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let code = header("x-error-code").unwrap_or_default();
        let retry_after_seconds = header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        let url = response.url().to_string();
        let told = header("x-error-message");
        let message = match told {
            Some(text) => Some(text),
            None => error_text(&response.text().await.unwrap_or_default()),
        };
        let has_token = self.config.token.is_some();
        let repo = model.repo.clone();
        let page = self.config.page(&repo);
        let refused_token = message
            .as_ref()
            .is_some_and(|text| text.contains("Invalid credentials"));
        Err(match (code.as_str(), status.as_u16()) {
            ("GatedRepo", _) => HubError::Gated {
                repo,
                page,
                has_token,
            },
            ("RevisionNotFound", _) => HubError::RevisionNotFound {
                repo,
                revision: model.revision().to_owned(),
                page,
            },
            (_, 401) if refused_token && has_token => HubError::BadToken,
            ("RepoNotFound", _) | (_, 401 | 404) => {
                let near = names::suggestions(&repo)
                    .into_iter()
                    .filter(|name| *name != repo)
                    .collect();
                HubError::RepoNotFound {
                    repo,
                    near,
                    has_token,
                }
            }
            (_, status) => HubError::Status {
                status,
                url,
                message,
                retry_after_seconds,
            },
        })
    }
}

/// First byte of a partial answer.
fn range_start(response: &Response) -> u64 {
    let header = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    let start = header.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    start.unwrap_or(0)
}

fn error_text(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

/// Percent-encodes one segment of a path.
fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

impl Answer {
    /// Commit, object ids and paths become paths on disk: what could leave the cache is refused.
    fn into_info(self) -> Result<RepoInfo, String> {
        if !is_hex(&self.sha, 40) {
            return Err(format!("its commit is `{}`", self.sha));
        }
        if self.siblings.len() > MAX_FILES {
            return Err(format!("it lists {} files", self.siblings.len()));
        }
        let files = self
            .siblings
            .into_iter()
            .map(Sibling::into_file)
            .collect::<Result<_, _>>()?;
        Ok(RepoInfo {
            commit: self.sha,
            files,
        })
    }
}

impl Sibling {
    fn into_file(self) -> Result<RepoFile, String> {
        let path = self.rfilename;
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
        if !path.split('/').all(is_plain) {
            return Err(format!("it lists a file `{path}`"));
        }
        let sha256 = self.lfs.as_ref().map(|lfs| lfs.sha256.clone());
        let size = self.lfs.as_ref().and_then(|lfs| lfs.size).or(self.size);
        let etag = sha256
            .clone()
            .or(self.blob_id)
            .ok_or_else(|| format!("it tells no id of `{path}`"))?;
        if !is_hex(&etag, 40) && !is_hex(&etag, 64) {
            return Err(format!("the id of `{path}` is `{etag}`"));
        }
        let size = size.ok_or_else(|| format!("it tells no size of `{path}`"))?;
        Ok(RepoFile {
            path,
            size,
            etag,
            sha256,
        })
    }
}

/// Whether `text` is `digits` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> Result<RepoInfo, String> {
        serde_json::from_str::<Answer>(json)
            .map_err(|error| error.to_string())?
            .into_info()
    }

    #[test]
    fn a_listing_that_could_leave_the_cache_is_refused() {
        let sha = "a".repeat(40);
        let with = |file: &str, id: &str| {
            format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":"{file}","size":1,"blobId":"{id}"}}]}}"#)
        };
        assert_eq!(
            info(&with("a/b.json", &sha)).expect("is sound").files[0].path,
            "a/b.json"
        );
        assert!(info(&with("../x", &sha)).is_err());
        assert!(info(&with("/x", &sha)).is_err());
        assert!(info(&with("x", "../../x")).is_err());
        assert!(info(r#"{"sha":"../..","siblings":[]}"#).is_err());
    }

    #[test]
    fn a_path_is_escaped_for_its_address() {
        assert_eq!(escape("a b#ü.json"), "a%20b%23%C3%BC.json");
    }
}
