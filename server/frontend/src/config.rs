//! How a frontend listens and what it allows.

use std::time::Duration;

/// Address, key and limits.
#[derive(Clone, Debug)]
pub struct FrontendConfig {
    /// Address to listen on.
    pub host: String,
    /// Port for HTTP and gRPC; 0 takes a free one.
    pub port: u16,
    /// Key that `/v1/*` asks for as `Authorization: Bearer`; `None` asks for none.
    pub api_key: Option<String>,
    /// Largest body.
    pub max_body_bytes: usize,
    /// Most connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// Most prompts in one request, and most embeddings.
    pub max_inputs: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// A stream without news gets a comment this often, so that nothing between us and the client gives up.
    pub keep_alive_interval: Duration,
    /// A stream's headers wait this long for its first token, so that a failure until then still has its status.
    pub first_token_wait: Duration,
    /// Time that running requests have to finish after the shutdown has begun.
    pub drain_timeout: Duration,
}

impl FrontendConfig {
    /// The defaults, on `host` and `port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            api_key: None,
            max_body_bytes: 8 << 20,
            max_connections: 4096,
            max_inputs: 2048,
            body_timeout: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(10),
            first_token_wait: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(120),
        }
    }
}
