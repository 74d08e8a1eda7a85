//! Spreads OpenAI traffic over engine replicas.
//!
//! A request's way: [`routes`] -> model by name -> [`policy`] picks among the replicas that [`telemetry`] calls ready
//! -> [`proxy`] sends it there, and to another one if that replica fails before its first byte. What replicas there
//! are comes from [`discovery`], as full snapshots.

pub mod discovery;
pub mod policy;

mod config;
mod control;
mod fleet;
mod keys;
mod metrics;
mod proxy;
mod routes;
mod server;
mod telemetry;
mod watched_file;

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

pub use self::{
    config::{ApiKey, RouterConfig, TelemetryConfig},
    discovery::{Endpoints, EndpointsError, KubernetesConfig, ModelEntry, ReplicaEntry, Source},
    server::{Router, StartError, run},
};

/// What every request needs.
struct Context {
    config: RouterConfig,
    fleet: fleet::Fleet,
    bodies: proxy::Bodies,
    keys: keys::Keys,
    metrics: Arc<metrics::Metrics>,
    policy: Box<dyn policy::Policy>,
    /// Cancelled when the shutdown begins: whoever can should go elsewhere.
    leaving: CancellationToken,
    /// Cancelled when nothing new is taken any more.
    stopping: CancellationToken,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
