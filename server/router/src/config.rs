//! What a router is told when it starts.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::discovery::Source;

/// Everything that can be set. [`RouterConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of readiness, metrics and the service `ferrum.v1.Demand`; none of them in a listener of its own when
    /// absent.
    pub control_listen: Option<SocketAddr>,
    /// Where the models and replicas come from.
    pub source: Source,
    /// When set, routes below `/v1` want `Authorization: Bearer <key>`; this one is for every model.
    pub api_key: Option<ApiKey>,
    /// A list of `{name, key, models}` in YAML or JSON with further keys, each for the served names in `models` or for
    /// all (`*`). It is read again when it changes, also as a Secret that is mounted.
    pub api_keys_path: Option<PathBuf>,
    /// Largest request body; a larger one is answered with 413.
    pub max_body_bytes: usize,
    /// Most bytes of bodies held at a time; one more is answered with 429.
    pub max_bodies_bytes: usize,
    /// Answers that are not streamed are held back up to this size, so that a replica that dies while it answers can
    /// be replaced; a larger one is passed on while it arrives.
    pub max_held_answer_bytes: usize,
    /// Most replicas that may fail a request (connection refused, broken off) before the client hears of it.
    pub max_attempts: usize,
    /// Most client connections; the next ones wait in the listener's backlog.
    pub max_connections: usize,
    /// Most requests a model that wait for a replica to become ready or to have room; one more is answered with 503 or
    /// 429.
    pub queue_limit: usize,
    /// Longest wait for room, once a replica is ready.
    pub queue_timeout: Duration,
    /// Longest wait for a replica to become ready.
    pub start_timeout: Duration,
    /// A stream that has not begun after so long gets its head and comments, so that nothing between router and client
    /// takes the line for dead. Until then a failure has its own status; after it, it is an event.
    pub comment_after: Duration,
    /// Longest time for a connection to a replica to open.
    pub connect_timeout: Duration,
    /// Longest time for a request to arrive, once begun.
    pub request_timeout: Duration,
    /// How long connections are still taken after the shutdown has begun: whoever sends them needs a while to learn of
    /// it. Each answer asks the client to open another connection.
    pub shutdown_delay: Duration,
    /// Longest time that requests may take to finish after no connection is taken any more.
    pub drain_timeout: Duration,
    /// How long a lost telemetry stream, or one that never opened, is believed.
    pub telemetry: TelemetryConfig,
}

/// Times of the telemetry streams.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// A replica whose stream was lost is used for so long without any sign of life.
    pub grace: Duration,
    /// A replica that neither answers nor refuses connections for so long is taken for vanished, and requests that
    /// wait for it are moved.
    pub vanished_after: Duration,
    /// Longest pause between two tries to open a stream.
    pub max_backoff: Duration,
    /// Interval of the pings that find a dead connection.
    pub ping_interval: Duration,
}

/// A key that clients send; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key itself.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl RouterConfig {
    /// The defaults for a file of replicas, on a free port of 127.0.0.1.
    pub fn new(endpoints_path: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(endpoints_path.into()))
    }

    /// The defaults for any source, on a free port of 127.0.0.1.
    pub fn of(source: Source) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            control_listen: None,
            source,
            api_key: None,
            api_keys_path: None,
            max_body_bytes: 8 << 20,
            max_bodies_bytes: 512 << 20,
            max_held_answer_bytes: 32 << 20,
            max_attempts: 4,
            max_connections: 8192,
            queue_limit: 256,
            queue_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            comment_after: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(60),
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(120),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(3),
            vanished_after: Duration::from_secs(10),
            max_backoff: Duration::from_secs(1),
            ping_interval: Duration::from_secs(5),
        }
    }
}
