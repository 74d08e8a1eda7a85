//! The transfer of one file: resume, retry, and the look at its first bytes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode,
    header::{
        CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    },
};

use super::{GGUF_MAGIC, Place, VALIDATOR, VALIDATOR_OF_PART, WebRef};
use crate::hub::{
    client::SILENCE,
    error::{HubError, NetworkError},
    transfer::{FetchEvent, FetchObserver, Partial, Retries, Room, Tally, receive},
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `https://` stays so through every redirect.
pub(super) fn client(model: &WebRef) -> Result<Client, HubError> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .https_only(model.url.starts_with("https://"))
        .user_agent(concat!("ferrum/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| unreachable(model, NetworkError::Http(error)))
}

fn unreachable(model: &WebRef, source: NetworkError) -> HubError {
    HubError::HostUnreachable {
        url: model.url.clone(),
        source,
    }
}

/// One download.
pub(super) struct Download<'a> {
    pub(super) client: Client,
    pub(super) model: &'a WebRef,
    pub(super) place: &'a Place,
    pub(super) max_bytes: Option<u64>,
    pub(super) observer: &'a dyn FetchObserver,
}

/// An answer with bytes of the file.
struct Answer {
    response: Response,
    /// First byte of the file in it.
    offset: u64,
    /// Bytes of the whole file, where the server says.
    total_bytes: Option<u64>,
    validator: Option<String>,
}

impl Download<'_> {
    /// Whether the server still has the file that is here.
    pub(super) async fn is_unchanged(&self) -> Result<bool, HubError> {
        let known = self.place.validator(VALIDATOR);
        let condition = known.as_ref().map(|validator| {
            let header = if is_etag(validator) {
                IF_NONE_MATCH
            } else {
                IF_MODIFIED_SINCE
            };
            (header, validator.clone())
        });
        let response = self.send(condition.into_iter().collect()).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(true);
        }
        let answer = self.check(response)?;
        if known.is_some() {
            return Ok(known == answer.validator);
        }
        let size = fs::metadata(self.place.file())
            .map(|metadata| metadata.len())
            .ok();
        Ok(size.is_some() && size == answer.total_bytes)
    }

    /// Brings all of it.
    pub(super) async fn run(&self) -> Result<(), HubError> {
        let folder = &self.place.folder;
        fs::create_dir_all(folder).map_err(HubError::io("cannot make the folder", folder))?;
        self.place.write("url", &self.model.url)?;
        let path = self.place.incomplete();
        let mut partial = Partial::open(&path, u64::MAX).map_err(HubError::io("cannot read", &path))?;
        if self.place.validator(VALIDATOR_OF_PART).is_none() {
            // Nobody can say whether it is a part of the same file.
            partial.restart().map_err(HubError::io("cannot write", &path))?;
        }
        let mut retries = Retries::default();
        let mut tally = None;
        loop {
            let before = partial.len;
            let (error, total_bytes) = match self.open(partial.len).await {
                Ok(answer) => {
                    let total_bytes = answer.total_bytes;
                    match self.take(answer, &mut partial, &mut tally).await {
                        Ok(()) => break,
                        Err(HubError::Io { source, .. }) if source.kind() != io::ErrorKind::StorageFull => {
                            (source, total_bytes)
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) if error.is_unreachable() && tally.is_some() => (io::Error::other(error), None),
                Err(error) => return Err(error),
            };
            tracing::info!(url = self.model.url, at = partial.len, %error, "the download broke off; going on");
            if !retries.again(partial.len > before).await {
                return Err(HubError::BrokenOff {
                    file: self.model.url.clone(),
                    done_bytes: partial.len,
                    total_bytes,
                    source: error,
                });
            }
        }
        let sha256 = partial.finish().map_err(HubError::io("cannot write", &path))?;
        let place =
            |from: &Path, to: PathBuf| fs::rename(from, to).map_err(HubError::io("cannot write", from));
        let folder = &self.place.folder;
        // In this order: a file with the validator of an older one is only fetched once more.
        place(&path, self.place.file())?;
        place(&folder.join(VALIDATOR_OF_PART), folder.join(VALIDATOR))?;
        tracing::info!(url = self.model.url, sha256, "downloaded");
        self.observer.on_event(FetchEvent::End);
        Ok(())
    }

    /// Asks for the file from `offset` on, if it is still the file that the part is of.
    async fn open(&self, offset: u64) -> Result<Answer, HubError> {
        let mut headers = Vec::new();
        if let (1.., Some(validator)) = (offset, self.place.validator(VALIDATOR_OF_PART)) {
            headers.push((RANGE, format!("bytes={offset}-")));
            headers.push((IF_RANGE, validator));
        }
        let mut response = self.send(headers).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            response = self.send(Vec::new()).await?;
        }
        self.check(response)
    }

    async fn send(&self, headers: Vec<(HeaderName, String)>) -> Result<Response, HubError> {
        let mut request = self.client.get(&self.model.url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        match tokio::time::timeout(SILENCE, request.send()).await {
            Ok(answer) => {
                answer.map_err(|error| unreachable(self.model, NetworkError::Http(error.without_url())))
            }
            Err(_) => Err(unreachable(self.model, NetworkError::Silent)),
        }
    }

    fn check(&self, response: Response) -> Result<Answer, HubError> {
        if !response.status().is_success() {
            return Err(HubError::WebStatus {
                url: self.model.url.clone(),
                status: response.status(),
            });
        }
        let headers = response.headers();
        let length = text(headers, CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let (offset, total_bytes) = match response.status() {
            StatusCode::PARTIAL_CONTENT => range(&text(headers, CONTENT_RANGE).unwrap_or_default()),
            _ => (0, length),
        };
        Ok(Answer {
            offset,
            total_bytes,
            // A weak tag does not promise the same bytes.
            validator: text(headers, ETAG)
                .filter(|tag| is_etag(tag))
                .or_else(|| text(headers, LAST_MODIFIED)),
            response,
        })
    }

    /// Writes what an answer brings; an [`HubError::Io`] is worth another try.
    async fn take<'t>(
        &'t self,
        answer: Answer,
        partial: &mut Partial,
        tally: &mut Option<Tally<'t>>,
    ) -> Result<(), HubError> {
        let path = self.place.incomplete();
        let broken = |error: io::Error| HubError::io("cannot write", &path)(error);
        let Answer {
            mut response,
            offset,
            total_bytes,
            validator,
        } = answer;
        if offset != partial.len {
            if let Some(tally) = tally {
                tally.subtract(partial.len);
            }
            partial.restart().map_err(broken)?;
        }
        if tally.is_none() {
            *tally = Some(self.begin(partial.len, total_bytes)?);
        }
        let Some(tally) = tally else { return Ok(()) };
        if offset > 0 && partial.len == 0 {
            return Err(broken(io::Error::other(
                "the server sent another part than asked for",
            )));
        }
        self.place
            .write(VALIDATOR_OF_PART, validator.as_deref().unwrap_or_default())?;
        if partial.len == 0 {
            let head = self.head(&mut response).await?;
            partial.append(&head).map_err(broken)?;
            tally.add(head.len() as u64);
        }
        receive(response, partial, total_bytes, tally)
            .await
            .map_err(broken)
    }

    fn begin(&self, done_bytes: u64, total_bytes: Option<u64>) -> Result<Tally<'_>, HubError> {
        let room = Room {
            title: &self.model.url,
            folder: &self.place.folder,
            max_bytes: self.max_bytes,
        };
        let known_bytes = total_bytes.unwrap_or(0);
        room.check(known_bytes, done_bytes)?;
        self.observer.on_event(FetchEvent::Begin {
            title: self.model.title(),
            done_bytes,
            total_bytes: known_bytes,
        });
        Ok(Tally::new(done_bytes, known_bytes, self.observer))
    }

    /// The first bytes, if they are those of a GGUF file: a page about it is told before gigabytes of it are here.
    async fn head(&self, response: &mut Response) -> Result<Vec<u8>, HubError> {
        let mut head = Vec::new();
        while head.len() < GGUF_MAGIC.len() {
            let next = tokio::time::timeout(SILENCE, response.chunk()).await;
            let broken = |error: io::Error| HubError::io("cannot read", self.place.incomplete())(error);
            match next {
                Err(_) => return Err(broken(io::ErrorKind::TimedOut.into())),
                Ok(Err(error)) => return Err(broken(io::Error::other(error))),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => head.extend_from_slice(&chunk),
            }
        }
        if head.starts_with(GGUF_MAGIC) {
            return Ok(head);
        }
        let kind = text(response.headers(), CONTENT_TYPE).unwrap_or_else(|| "unknown".to_owned());
        let begin = String::from_utf8_lossy(&head[..head.len().min(GGUF_MAGIC.len())]).into_owned();
        // What is not a model is not kept; a model that was here before is.
        let _ = match self.place.file().is_file() {
            true => fs::remove_file(self.place.incomplete()),
            false => fs::remove_dir_all(&self.place.folder),
        };
        Err(HubError::NotGguf {
            url: self.model.url.clone(),
            reason: format!("it begins with {begin:?}, its type is {kind}"),
        })
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn is_etag(validator: &str) -> bool {
    validator.starts_with('"')
}

/// First byte and length of `bytes 100-199/200`.
fn range(text: &str) -> (u64, Option<u64>) {
    let parts = || {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split('-').next()?.parse().ok()?, total.parse().ok()))
    };
    parts().unwrap_or((0, None))
}
