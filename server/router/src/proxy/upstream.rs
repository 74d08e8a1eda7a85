//! Connections to one replica.
//!
//! The pool is our own and small, instead of a general client's: it has to tell a fresh connection from one that
//! lay idle (only the latter may have been closed by the other side without meaning anything), to close a socket the
//! moment a request is given up, and to go away together with its replica.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

/// Most connections that lie idle.
const MAX_IDLE: usize = 128;
/// Longest time that a connection lies idle; shorter than what an engine allows.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that lay idle and breaks within this time was closed by the other side before it saw the request.
const STALE_WINDOW: Duration = Duration::from_millis(250);
/// Longest time for an answer to a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A replica's address and the connections to it.
#[derive(Debug)]
pub(crate) struct Upstream {
    url: String,
    authority: String,
    host: HeaderValue,
    connect_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

/// An HTTP/1.1 connection. Dropping it closes the socket, whatever is going on there.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
    idle_since: Option<Instant>,
}

/// Why a replica gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// It closed the connection, or sent what is not HTTP, before the head of an answer was complete.
    #[error("broke off before it answered: {0}")]
    BrokenOff(hyper::Error),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
}

impl UpstreamError {
    /// Whether the machine answered that nobody listens there.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Upstream {
    /// `url` is `http://host:port`, as [`Endpoints::check`](crate::discovery::Endpoints::check) demands.
    pub(crate) fn new(url: &str, connect_timeout: Duration) -> Self {
        let uri: Uri = url.parse().unwrap_or_default();
        let authority = uri.authority().map_or_else(String::new, ToString::to_string);
        let host = HeaderValue::from_str(&authority).unwrap_or(HeaderValue::from_static("replica"));
        Self {
            url: url.to_owned(),
            authority,
            host,
            connect_timeout,
            idle: Mutex::default(),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Sends a request and waits for the head of the answer. Dropping the future closes the connection.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection), UpstreamError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        while let Some(mut connection) = self.take_idle() {
            if !connection.becomes_ready().await {
                continue;
            }
            let sent_at = Instant::now();
            match connection.sender.send_request(request.clone()).await {
                Ok(response) => return Ok((response, connection)),
                Err(error) if sent_at.elapsed() > STALE_WINDOW => {
                    return Err(UpstreamError::BrokenOff(error));
                }
                Err(_) => break,
            }
        }
        let mut connection = self.connect().await?;
        match connection.sender.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(UpstreamError::BrokenOff(error)),
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn keep(&self, mut connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        connection.idle_since = Some(Instant::now());
        let mut idle = self.idle();
        idle.retain(Connection::is_usable);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    /// Asks `/health` on a connection of its own: whether a token can be made.
    pub(crate) async fn probe(&self) -> Result<bool, UpstreamError> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = Uri::from_static("/health");
        request.headers_mut().insert(header::HOST, self.host.clone());
        let mut connection = self.connect().await?;
        match timeout(PROBE_TIMEOUT, connection.sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response.status().is_success()),
            Ok(Err(error)) => Err(UpstreamError::BrokenOff(error)),
            Err(_) => Err(UpstreamError::Connect(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer to a probe",
            ))),
        }
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        let connecting = timeout(self.connect_timeout, TcpStream::connect(&self.authority));
        let stream = match connecting.await {
            Ok(connected) => connected.map_err(UpstreamError::Connect)?,
            Err(_) => {
                let message = format!("no connection within {} ms", self.connect_timeout.as_millis());
                return Err(UpstreamError::Connect(io::Error::new(
                    io::ErrorKind::TimedOut,
                    message,
                )));
            }
        };
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        // What is sent on a connection that lay idle while the other side vanished is given up as soon as a new
        // connection would be.
        let unanswered_ms = u32::try_from(self.connect_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, unanswered_ms)
            .map_err(|error| UpstreamError::Connect(error.into()))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::BrokenOff)?;
        // What breaks a connection is told to whoever waits for the answer.
        let task = tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Connection {
            sender,
            task: task.abort_handle(),
            idle_since: None,
        })
    }

    /// The connection that was used last: the others may grow old and go.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// A connection that was kept a moment ago may have a last thing to do; one that has more than that is no good.
    async fn becomes_ready(&mut self) -> bool {
        self.sender.is_ready() || matches!(timeout(STALE_WINDOW, self.sender.ready()).await, Ok(Ok(())))
    }

    fn is_usable(&self) -> bool {
        let is_fresh = self.idle_since.is_none_or(|since| since.elapsed() < IDLE_TIMEOUT);
        is_fresh && !self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
