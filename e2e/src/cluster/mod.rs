//! Tests on a real Kubernetes: `make e2e` runs them, on the cluster of e2e/cluster or on the one that KUBECONFIG names.
//!
//! A file of such tests is `e2e/tests/cluster_*.rs`, begins with `#![cfg(feature = "cluster")]`, and each of its tests
//! is one call of [`with_temp_ns`]. Tests run inside the cluster's network: addresses of pods and services answer.

mod broken;
mod chart;
mod dump;
mod manifest;
pub mod models;
mod namespace;
mod programs;
mod wait;

pub use broken::{BrokenManifest, Expectation, broken_manifests};
pub use chart::{Chart, NAMESPACE as CHART_NAMESPACE, RELEASE as CHART_RELEASE};
pub use dump::dump;
pub use manifest::{apply, install_definition, objects};
pub use models::condition;
pub use namespace::{connect, with_temp_ns};
pub use programs::{
    AuditLog, SIMULATED_NODE, freeze_api_server, kill_container, simulate_nodes, thaw_api_server,
};
pub use wait::{await_condition, eventually};

/// Label of every namespace that a test made.
pub const LABEL: &str = "ferrum.dev/e2e";

/// A setting from the environment, if it is not empty.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
