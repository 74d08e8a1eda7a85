//! Where the router learns which models and replicas there are.
//!
//! A source hands over full snapshots, never deltas: a reader that missed one is right again with the next, and a
//! deletion cannot be lost. A source is whatever keeps the sending end of [`Snapshots`]; another one is another file
//! here.

mod endpoints;
pub(crate) mod file;
pub(crate) mod kubernetes;

use std::{path::PathBuf, sync::Arc};

use prometheus::IntCounter;
use tokio::sync::watch;

pub use self::{
    endpoints::{Endpoints, EndpointsError, ModelEntry, ReplicaEntry},
    kubernetes::{ClusterError, KubernetesConfig},
};
use crate::watched_file::WatchError;

/// What the router follows.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file with the models and replicas, as [`Endpoints::write_atomically`] writes it. It may appear later; its
    /// folder must exist.
    File(PathBuf),
    /// FerrumModels and engine pods.
    Kubernetes(KubernetesConfig),
}

/// Why a source cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Of a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Of a file.
    #[error(transparent)]
    File(#[from] WatchError),
}

/// The last snapshot; `None` until the first has come.
pub(crate) type Snapshots = watch::Receiver<Option<Arc<Endpoints>>>;

/// Begins to follow a source; `errors` counts what it could not read.
///
/// # Errors
/// See [`SourceError`]. A file or an API server that is not there is none.
pub(crate) async fn follow(source: &Source, errors: IntCounter) -> Result<Snapshots, SourceError> {
    Ok(match source {
        Source::File(path) => file::watch(path, errors)?,
        Source::Kubernetes(config) => kubernetes::watch(config, errors).await?,
    })
}
