//! `ferrum operator`: from FerrumModels of a cluster to pods.

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;
use ferrum_crds::names;
use ferrum_operator::OperatorConfig;

use crate::up::signals::Signals;

/// Run the FerrumModels of a Kubernetes cluster
///
/// Watches FerrumModels and makes a Deployment of engines for each, a volume and a job for its weights where it asks for a
/// cache, and a status that says what became of it. Of several operators one writes at a time, by a lease. Needs a
/// service account or KUBECONFIG. SIGTERM or Ctrl-C gives the lease back and exits with 0.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum operator --engine-image ferrum.dev/engine-cpu:0.1.0 --lease-namespace ferrum
  ferrum operator --engine-image engine-cpu:dev --namespace team-a --namespace team-b --lease-namespace team-a

Routes: /metrics /readyz /livez")]
pub(crate) struct OperatorArgs {
    /// Namespace whose FerrumModels are served; may be repeated [default: every namespace]
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,

    /// Image of engines on device cpu, and of the jobs that fetch weights
    #[arg(long, value_name = "IMAGE")]
    engine_image: String,

    /// Image of engines on device cuda; without it, models that ask for cuda are refused
    #[arg(long, value_name = "IMAGE")]
    engine_image_cuda: Option<String>,

    /// When nodes pull images [default: the cluster's own] [possible values: Always, IfNotPresent, Never]
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"], hide_possible_values = true)]
    image_pull_policy: Option<String>,

    /// Address for /metrics, /readyz and /livez
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([0, 0, 0, 0], names::OPERATOR_PORT)))]
    listen: SocketAddr,

    /// Name of the leader's lease
    #[arg(long, value_name = "NAME", default_value = names::LEASE_NAME)]
    lease_name: String,

    /// Namespace of the lease and of the router's pods
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "default"
    )]
    lease_namespace: String,

    /// Who this process is in the lease [default: its host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,

    /// Labels of the router's pods
    #[arg(
        long,
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/name=ferrum,app.kubernetes.io/component=router"
    )]
    router_selector: String,

    /// Control port of the router's pods
    #[arg(long, value_name = "PORT", default_value_t = names::ROUTER_CONTROL_PORT)]
    router_control_port: u16,

    /// Also serve file:// models: paths of the node that an engine happens to run on
    #[arg(long)]
    allow_node_files: bool,

    /// Model hub of engines and fetch jobs (their HF_ENDPOINT) [default: the public one]
    #[arg(long, value_name = "URL")]
    hub_endpoint: Option<String>,
}

/// Runs until a signal.
pub(crate) async fn run(args: OperatorArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    ferrum_operator::run(args.config(), async move { signals.next().await }).await?;
    Ok(ExitCode::SUCCESS)
}

impl OperatorArgs {
    fn config(self) -> OperatorConfig {
        OperatorConfig {
            namespaces: self.namespaces,
            engine_image: self.engine_image,
            engine_image_cuda: self.engine_image_cuda,
            image_pull_policy: self.image_pull_policy,
            listen: self.listen,
            lease_name: self.lease_name,
            lease_namespace: self.lease_namespace,
            // Two processes of one host must not share a lease.
            identity: self
                .identity
                .unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id())),
            router_selector: self.router_selector,
            router_control_port: self.router_control_port,
            allow_node_files: self.allow_node_files,
            hub_endpoint: self.hub_endpoint,
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
