//! Whom a command talks to: a model in this process, or an endpoint.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use anyhow::bail;
use clap::Args;
use ferrum_engine::{Device, LaunchConfig, OutputLayer, Phase, Task, parse_bytes};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{client::ApiClient, engine::PhaseSink, exit::UsageError, local_server::InProcess};

/// The model, and where it runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    /// Short name, org/name, folder or .gguf file; with --endpoint the name it is served under
    pub(crate) model: String,

    /// Talk to this OpenAI endpoint and load nothing here
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,

    /// Key of the endpoint
    #[arg(long, value_name = "KEY", env = "FERRUM_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How a model in this process is loaded.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Device to run on
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, conflicts_with = "endpoint", help_heading = "Engine (without --endpoint)")]
    device: Device,

    /// Devices that share the model
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "endpoint",
        help_heading = "Engine (without --endpoint)"
    )]
    tensor_parallel: usize,

    /// Give a request the same tokens whatever else runs beside it: on device cpu it always is so, on GPUs it costs speed
    #[arg(
        long,
        conflicts_with = "endpoint",
        help_heading = "Engine (without --endpoint)"
    )]
    batch_invariant: bool,

    /// How a dense output layer is kept: auto as the checkpoint has it, int8 at 8 bits for shorter steps and a little less
    /// exact logits
    #[arg(long, value_name = "FORMAT", default_value_t = OutputLayer::Auto, conflicts_with = "endpoint", help_heading = "Engine (without --endpoint)")]
    output_layer: OutputLayer,

    /// CPU threads [default: all cores]
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "endpoint",
        help_heading = "Engine (without --endpoint)"
    )]
    threads: Option<usize>,

    /// Most tokens of a sequence [default: the model's, bounded by the cache]
    #[arg(
        long,
        value_name = "TOKENS",
        conflicts_with = "endpoint",
        help_heading = "Engine (without --endpoint)"
    )]
    max_model_len: Option<usize>,

    /// Memory for the KV cache, such as 512Mi
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "endpoint", help_heading = "Engine (without --endpoint)")]
    kv_cache_memory: Option<u64>,
}

/// An open connection.
pub(crate) struct Connection {
    /// The client.
    pub(crate) client: ApiClient,
    /// OpenAI `model`.
    pub(crate) model: String,
    _in_process: Option<InProcess>,
}

impl EngineArgs {
    /// CPU threads that were asked for.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// A launch of `model` with these flags.
    pub(crate) fn launch_config(&self, model: &str) -> LaunchConfig {
        LaunchConfig {
            device: self.device,
            tensor_parallel: self.tensor_parallel,
            batch_invariant: self.batch_invariant,
            output_layer: self.output_layer,
            threads: self.threads,
            max_model_len: self.max_model_len,
            kv_cache_memory: self.kv_cache_memory,
            ..LaunchConfig::new(model)
        }
    }
}

impl ConnectArgs {
    /// Connects, loading the model here if no endpoint is named; `None` when Ctrl-C came first.
    ///
    /// # Errors
    /// A model that cannot be loaded or is for another task; an address that is none.
    pub(crate) async fn open(&self, task: Task) -> anyhow::Result<Option<Connection>> {
        if let Some(endpoint) = &self.endpoint {
            let client = ApiClient::new(endpoint, self.api_key.clone())?;
            return Ok(Some(Connection {
                client,
                model: self.model.clone(),
                _in_process: None,
            }));
        }
        let mut config = self.engine.launch_config(&self.model);
        config.max_num_seqs = 8;
        let spinner = PhaseSpinner::new(&self.model);
        let started = tokio::select! {
            started = InProcess::start(config, spinner.sink()) => started?,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        spinner.finish();
        let found = started.card.task;
        if found != task {
            let command = match found {
                Task::Chat => "run",
                Task::Embedding => "embed",
            };
            bail!(UsageError(format!(
                "{} is for {found}, not for {task}; try: ferrum {command}",
                self.model
            )));
        }
        let (client, model) = (started.client.clone(), started.card.served_names[0].clone());
        Ok(Some(Connection {
            client,
            model,
            _in_process: Some(started),
        }))
    }
}

/// What a starting engine does, on a terminal.
pub(crate) struct PhaseSpinner {
    bar: ProgressBar,
    model: String,
}

impl PhaseSpinner {
    /// Shows nothing until a phase comes, and nothing at all unless stderr is a terminal.
    pub(crate) fn new(model: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(ProgressStyle::default_spinner());
        Self {
            bar,
            model: model.to_owned(),
        }
    }

    /// Where the engine tells its phases.
    pub(crate) fn sink(&self) -> PhaseSink {
        let (bar, model) = (self.bar.clone(), self.model.clone());
        Arc::new(move |phase| {
            let text = match phase {
                // The download has a bar of its own.
                Phase::Fetching { .. } => return bar.disable_steady_tick(),
                Phase::Loading { total: 0, .. } => format!("loading {model}"),
                Phase::Loading { done, total } => format!("loading {model} {done}/{total}"),
                Phase::Warming => format!("warming {model}"),
                _ => return,
            };
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message(text);
        })
    }

    /// Takes it off the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for PhaseSpinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
