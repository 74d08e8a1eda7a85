//! Where the router learns which models and replicas there are.
//!
//! A source hands over full snapshots, never deltas: a reader that missed one is right again with the next, and a
//! deletion cannot be lost. A source is whatever keeps the sending end of [`Snapshots`]; another one is another file
//! here.

mod endpoints;
pub(crate) mod file;

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

pub use endpoints::{Endpoints, EndpointsError, ModelEntry, ReplicaEntry};

/// The last snapshot; `None` until the first has come.
pub(crate) type Snapshots = watch::Receiver<Option<Arc<Endpoints>>>;

/// The folder of the list cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the folder {}: {source}", path.display())]
pub struct WatchError {
    /// The folder.
    pub path: PathBuf,
    /// Why.
    pub source: notify::Error,
}
