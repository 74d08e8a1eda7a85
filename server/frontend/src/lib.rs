//! HTTP and gRPC face of one engine.
//!
//! ```text
//! accept -> middleware (id, span, key) -> routes/<route>: receive -> parse -> validate -> submit -> deliver
//!                                                                     │           │           │
//!                                                        template, tokenizer   engine   text (detokenizer, stop
//!                                                                                       strings) -> wire -> SSE
//! ```
//!
//! It listens at once, while the model loads, and says so; it is ready when a token can be made. A body owns the
//! engine's streams, so that a client that leaves ends its work, streaming or not.

mod accept;
mod app;
mod body;
mod config;
mod deliver;
mod generation;
mod metrics;
mod middleware;
mod refusal;
mod routes;
mod sequence;
mod server;
mod telemetry;
mod template;
mod text;
mod validate;
mod wire;

pub use config::FrontendConfig;
pub use server::{Frontend, FrontendError, FrontendHandle};
