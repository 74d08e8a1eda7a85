//! Where the router learns which models and replicas there are.
//!
//! A source hands over full snapshots, never deltas: a reader that missed one is right again with the next, and a
//! deletion cannot be lost.

mod endpoints;

pub use endpoints::{Endpoints, EndpointsError, ModelEntry, ReplicaEntry};
