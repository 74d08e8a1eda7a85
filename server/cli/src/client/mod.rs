//! A client of an OpenAI endpoint: ours, in this process or elsewhere, or any other.

mod sse;

use std::{collections::VecDeque, marker::PhantomData, time::Duration};

use ferrum_api::{
    ErrorBody,
    chat::{ChatCompletionChunk, ChatCompletionRequest},
    completions::{Completion, CompletionRequest},
    embeddings::{EmbeddingRequest, EmbeddingResponse},
    models::ModelList,
};
use reqwest::{Response, Url};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::sse::SseParser;
use crate::exit::root_cause;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence in an answer; a request may wait for others before it.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// One endpoint.
#[derive(Clone, Debug)]
pub(crate) struct ApiClient {
    base: Url,
    api_key: Option<String>,
    http: reqwest::Client,
}

/// What a router tells of itself at `/health`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RouterHealth {
    /// `ok` while it routes.
    pub(crate) status: String,
    /// Every model it knows.
    pub(crate) models: Vec<ModelHealth>,
}

/// One model behind a router.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ModelHealth {
    /// OpenAI `model` values.
    pub(crate) served_names: Vec<String>,
    /// What it is for.
    pub(crate) task: String,
    /// Replicas that can answer.
    pub(crate) ready: usize,
    /// Replicas.
    pub(crate) total: usize,
    /// What the furthest replica does.
    pub(crate) phase: String,
    /// Why it cannot be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// Why an endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address is none.
    #[error("`{endpoint}` is not an address: expected for example http://127.0.0.1:8080")]
    BadEndpoint {
        /// As given.
        endpoint: String,
    },
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    /// The endpoint says no.
    #[error("{message}{}", .status.map(|status| format!(" (status {status})")).unwrap_or_default())]
    Refused {
        /// HTTP status; `None` for an error in the middle of a stream.
        status: Option<u16>,
        /// For a person.
        message: String,
        /// For a program.
        code: Option<String>,
    },
    /// What came is no answer of an OpenAI endpoint.
    #[error("{url} does not answer like an OpenAI endpoint: {reason}")]
    Unexpected {
        /// Where.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing answers.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
}

impl ApiClient {
    /// A client of `endpoint`, with or without `/v1`.
    ///
    /// # Errors
    /// [`ClientError::BadEndpoint`].
    pub(crate) fn new(endpoint: &str, api_key: Option<String>) -> Result<Self, ClientError> {
        let bad = || ClientError::BadEndpoint {
            endpoint: endpoint.to_owned(),
        };
        let trimmed = endpoint.trim_end_matches('/');
        let trimmed = trimmed.strip_suffix("/v1").unwrap_or(trimmed);
        let base = Url::parse(&format!("{trimmed}/")).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(bad());
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(concat!("ferrum/", env!("CARGO_PKG_VERSION")));
        // A proxy for the world outside cannot reach this machine.
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|_| bad())?;
        Ok(Self { base, api_key, http })
    }

    /// What a router behind the endpoint tells of its models and their replicas.
    pub(crate) async fn router_health(&self) -> Result<RouterHealth, ClientError> {
        json(self.send(self.http.get(self.url("health"))).await?).await
    }

    /// The models that it serves.
    pub(crate) async fn models(&self) -> Result<ModelList, ClientError> {
        let request = self.http.get(self.url("v1/models"));
        let response = self.send(request).await?;
        json(response).await
    }

    /// Vectors of texts.
    pub(crate) async fn embed(&self, request: &EmbeddingRequest) -> Result<EmbeddingResponse, ClientError> {
        json(self.post("v1/embeddings", request).await?).await
    }

    /// A streamed answer to a conversation; `request.stream` must be set.
    pub(crate) async fn chat(
        &self,
        request: &ChatCompletionRequest,
    ) -> Result<EventStream<ChatCompletionChunk>, ClientError> {
        self.post("v1/chat/completions", request)
            .await
            .map(EventStream::new)
    }

    /// A streamed continuation of a prompt; `request.stream` must be set.
    pub(crate) async fn complete(
        &self,
        request: &CompletionRequest,
    ) -> Result<EventStream<Completion>, ClientError> {
        self.post("v1/completions", request).await.map(EventStream::new)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Response, ClientError> {
        self.send(self.http.post(self.url(path)).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let unreachable = |source: reqwest::Error| ClientError::Unreachable {
            url: self.base.to_string(),
            cause: root_cause(&source),
        };
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, url) = (response.status().as_u16(), response.url().to_string());
        let body = response
            .bytes()
            .await
            .map_err(|error| ClientError::BrokenOff(root_cause(&error)))?;
        Err(match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => ClientError::Refused {
                status: Some(status),
                message: error.message,
                code: error.code,
            },
            Err(_) => ClientError::Unexpected {
                url,
                reason: format!("status {status}"),
            },
        })
    }
}

async fn json<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let url = response.url().to_string();
    let body = response
        .bytes()
        .await
        .map_err(|error| ClientError::BrokenOff(root_cause(&error)))?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Unexpected {
        url,
        reason: error.to_string(),
    })
}

/// The events of a streamed answer, up to `[DONE]`. Dropping it tells the server to stop.
#[derive(Debug)]
pub(crate) struct EventStream<T> {
    response: Response,
    parser: SseParser,
    ready: VecDeque<Vec<u8>>,
    event: PhantomData<T>,
}

impl<T: DeserializeOwned> EventStream<T> {
    fn new(response: Response) -> Self {
        Self {
            response,
            parser: SseParser::default(),
            ready: VecDeque::new(),
            event: PhantomData,
        }
    }

    /// The next event; `None` after `[DONE]`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server reports an error in the stream, [`ClientError::BrokenOff`] when it ends
    /// without `[DONE]`.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return self.parse(&event);
            }
            let broken = ClientError::BrokenOff;
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| broken(root_cause(&error)))?;
            let Some(chunk) = chunk else {
                return Err(broken("the connection was closed".to_owned()));
            };
            self.ready.extend(
                self.parser
                    .push(&chunk)
                    .map_err(|error| broken(error.to_string()))?,
            );
        }
    }

    fn parse(&self, event: &[u8]) -> Result<Option<T>, ClientError> {
        if event == b"[DONE]" {
            return Ok(None);
        }
        let error = match serde_json::from_slice(event) {
            Ok(event) => return Ok(Some(event)),
            Err(error) => error,
        };
        Err(match serde_json::from_slice::<ErrorBody>(event) {
            Ok(ErrorBody { error }) => ClientError::Refused {
                status: None,
                message: error.message,
                code: error.code,
            },
            Err(_) => ClientError::Unexpected {
                url: self.response.url().to_string(),
                reason: error.to_string(),
            },
        })
    }
}
