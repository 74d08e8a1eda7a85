//! What an operator is started with.

use std::net::SocketAddr;

/// Settings of the operator; the same for every model.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Namespaces whose FerrumModels are served; empty for every namespace.
    pub namespaces: Vec<String>,
    /// Image of engines on device cpu, and of the jobs that fetch weights.
    pub engine_image: String,
    /// Image of engines on device cuda; without it such models are refused.
    pub engine_image_cuda: Option<String>,
    /// `imagePullPolicy` of every pod; without it the cluster's default.
    pub image_pull_policy: Option<String>,
    /// Where /metrics, /readyz and /livez are.
    pub listen: SocketAddr,
    /// Name of the leader lease.
    pub lease_name: String,
    /// Namespace of the lease and of the router's pods.
    pub lease_namespace: String,
    /// Who this process is in the lease.
    pub identity: String,
    /// Label selector of the router's pods.
    pub router_selector: String,
    /// Control port of the router's pods.
    pub router_control_port: u16,
    /// Whether `file://` models may mount folders of the node.
    pub allow_node_files: bool,
    /// `HF_ENDPOINT` of engines and fetch jobs.
    pub hub_endpoint: Option<String>,
}
