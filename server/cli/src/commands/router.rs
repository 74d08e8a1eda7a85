//! `ferrum router`: one endpoint in front of engines that run already.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use ferrum_router::{KubernetesConfig, Router, RouterConfig, Source};

use crate::{exit, hub::write_atomically, up::signals::Signals};

/// Spread requests over engines that run already
///
/// The engines are those of a JSON file, which is read again whenever it is replaced (`ferrum up` starts a router like
/// this one and writes the file), or the engine pods of a cluster. SIGTERM or Ctrl-C lets running requests finish; a
/// second one exits at once.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum router --endpoints endpoints.json --port 8080
  ferrum router --kubernetes --host 0.0.0.0 --port 8080 --control-port 8081

A file for two engines of one model:
  {\"generation\": 1,
   \"models\": [{\"name\": \"m\", \"served_names\": [\"m\"], \"task\": \"chat\"}],
   \"replicas\": [{\"id\": \"m-0\", \"model\": \"m\", \"url\": \"http://127.0.0.1:9000\"},
                {\"id\": \"m-1\", \"model\": \"m\", \"url\": \"http://127.0.0.1:9001\"}]}")]
pub(crate) struct RouterArgs {
    /// File with the models and their replicas
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    endpoints: Option<PathBuf>,

    /// Serve the FerrumModels of a cluster: that of KUBECONFIG, else the one that this pod is in
    #[arg(long)]
    kubernetes: bool,

    /// With --kubernetes: a namespace whose models are served; may be given more than once. Without it, all
    #[arg(long = "namespace", value_name = "NAMESPACE", requires = "kubernetes")]
    namespaces: Vec<String>,

    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// Port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// Second port, on the same address: /readyz, /livez, /metrics, and what waits and runs (gRPC ferrum.v1.Demand)
    #[arg(long, value_name = "PORT")]
    control_port: Option<u16>,

    /// Key that clients must send (Authorization: Bearer KEY)
    #[arg(long, value_name = "KEY", env = "FERRUM_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// File with keys and the models that each may use, as YAML or JSON: a list of {name, key, models}, where "*" in
    /// models means all. Read again when it changes
    #[arg(long, value_name = "FILE")]
    api_keys_file: Option<PathBuf>,

    /// Requests a model that may wait for a replica; one more is answered with 429, or 503 while none is ready
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue_limit: usize,

    /// Seconds that a request may wait for room on a replica
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    queue_timeout_seconds: u64,

    /// Seconds that a request may wait for a first replica to become ready [default: 30, with --kubernetes 300]
    #[arg(long, value_name = "SECONDS")]
    start_timeout_seconds: Option<u64>,

    /// Seconds that connections are still taken after SIGTERM, while those who send them learn of it
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    shutdown_delay_seconds: u64,

    /// Seconds that running requests may take to finish after that
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    drain_timeout_seconds: u64,

    /// Write the address, as http://HOST:PORT, to this file once it listens
    #[arg(long, value_name = "PATH", hide = true)]
    address_file: Option<PathBuf>,
}

/// Routes until a signal.
pub(crate) async fn run(args: RouterArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let router = Router::bind(args.config()).await?;
    let url = format!("http://{}", router.local_addr());
    writeln!(io::stderr(), "listening on {url}")?;
    if let Some(address) = router.control_addr() {
        writeln!(io::stderr(), "control port on http://{address}")?;
    }
    if let Some(path) = &args.address_file {
        write_atomically(path, format!("{url}\n").as_bytes())?;
    }
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = router.serve(async {
        // Also when the sender is gone.
        let _ = stopping.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => return Ok(ExitCode::SUCCESS),
        () = signals.next() => drop(stop),
    }
    tokio::select! {
        () = serving => Ok(ExitCode::SUCCESS),
        () = signals.next() => Ok(ExitCode::from(exit::INTERRUPTED)),
    }
}

impl RouterArgs {
    fn config(&self) -> RouterConfig {
        RouterConfig {
            listen: SocketAddr::new(self.host, self.port),
            control_listen: self.control_port.map(|port| SocketAddr::new(self.host, port)),
            api_key: self.api_key.clone().filter(|key| !key.is_empty()).map(Into::into),
            api_keys_path: self.api_keys_file.clone(),
            queue_limit: self.queue_limit,
            queue_timeout: Duration::from_secs(self.queue_timeout_seconds),
            start_timeout: Duration::from_secs(self.start_timeout_seconds()),
            shutdown_delay: Duration::from_secs(self.shutdown_delay_seconds),
            drain_timeout: Duration::from_secs(self.drain_timeout_seconds),
            ..RouterConfig::of(self.source())
        }
    }

    /// Weights that must be fetched first take minutes; on one machine a person sees that and need not wait.
    fn start_timeout_seconds(&self) -> u64 {
        let default = if self.kubernetes { 300 } else { 30 };
        self.start_timeout_seconds.unwrap_or(default)
    }

    fn source(&self) -> Source {
        match &self.endpoints {
            Some(path) => Source::File(path.clone()),
            None => Source::Kubernetes(KubernetesConfig {
                namespaces: self.namespaces.clone(),
                api_server: None,
            }),
        }
    }
}
