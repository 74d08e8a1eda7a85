//! `ferrum bench`: how fast a model is.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use clap::Args;
use ferrum_engine::{ModelCard, Task};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    bench::{
        Machine, Model, Prompts, Report, SCHEMA, Settings, Target, Workload, measure, resident_bytes, table,
    },
    client::ApiClient,
    connect::{ConnectArgs, PhaseSpinner},
    engine,
    exit::{FAILURE, UsageError},
};

/// Ids that every vocabulary has; an endpoint does not tell the size of its own.
const ENDPOINT_IDS: (u32, u32) = (32, 256);

/// Measure prefill, decode and latency
///
/// Each round sends CONCURRENCY requests at once and waits for all of them. Prefill is the prompt tokens of a round by
/// the time until its last first token; decode is the tokens made while every sequence of the round decodes, by that
/// time; both are medians of the rounds. Prompts are random token ids, all different. Without --endpoint the engine is
/// measured in this process, without HTTP.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  ferrum bench smollm2:135m
  ferrum bench smollm2:135m --concurrency 1,2,4,8 --prompt-tokens 512 --output-tokens 128 --threads 2
  ferrum bench smollm2:135m --json > bench.json
  ferrum bench smollm2:135m --endpoint http://127.0.0.1:8080 --requests 64 --concurrency 16
  ferrum bench minilm:l6 --prompt-tokens 64 --concurrency 1,32        texts a second")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    connect: ConnectArgs,

    /// Requests at the same time, a measurement each
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,8")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Vec<u16>,

    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    prompt_tokens: usize,

    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    output_tokens: usize,

    /// Requests that count, at each concurrency; at least three rounds unless given
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    requests: Option<usize>,

    /// Rounds before those that count
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,

    /// Let all prompts begin with the same N tokens, to measure the prefix cache
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_prefix: usize,

    /// Seed of the prompts; with the same seed an endpoint may have them cached [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Print JSON (schema ferrum.bench/v1)
    #[arg(long)]
    json: bool,
}

/// What is measured, opened.
struct Subject {
    target: Target,
    model: Model,
    ids: (u32, u32),
    load_seconds: Option<f64>,
}

/// Measures and prints.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let subject = match &args.connect.endpoint {
        Some(endpoint) => args.open_endpoint(endpoint).await?,
        None => args.open_engine().await?,
    };
    let task = subject.model.task;
    let seed = args.seed.unwrap_or_else(seed_of_now);
    let mut results = Vec::with_capacity(args.concurrency.len());
    for concurrency in &args.concurrency {
        let concurrency = usize::from(*concurrency);
        let workload = args.workload(&subject, seed, concurrency);
        let bar = progress(concurrency);
        let on_round = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let figures = measure(&subject.target, &workload, concurrency, on_round).await;
        bar.finish_and_clear();
        if let Some(failure) = &figures.first_failure {
            let _ = writeln!(
                io::stderr(),
                "{} of the requests failed; the first: {failure}",
                figures.failed
            );
        }
        results.push(figures);
    }
    let answered = results.iter().any(|figures| figures.requests > 0);
    let report = Report {
        schema: SCHEMA,
        ferrum_version: env!("CARGO_PKG_VERSION"),
        machine: Machine::this(),
        settings: args.settings(task, seed),
        resident_bytes: subject.load_seconds.and_then(|_| resident_bytes()),
        load_seconds: subject.load_seconds,
        model: subject.model,
        results,
    };
    print(&report, args.json)?;
    Ok(if answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

impl BenchArgs {
    async fn open_engine(&self) -> anyhow::Result<Subject> {
        let mut config = self.connect.engine.launch_config(&self.connect.model);
        let most = self.concurrency.iter().copied().max().unwrap_or(1);
        config.max_num_seqs = usize::from(most);
        config.max_num_batched_tokens = config.max_num_batched_tokens.max(config.max_num_seqs);
        let spinner = PhaseSpinner::new(&self.connect.model);
        let start = Instant::now();
        let loaded = engine::load(config, None, spinner.sink()).await?;
        spinner.finish();
        self.check_length(&loaded.card)?;
        Ok(Subject {
            model: Model::in_process(&loaded.card),
            ids: (0, u32::try_from(loaded.card.vocab_size)?),
            target: Target::Engine(Arc::clone(&loaded.engine)),
            load_seconds: Some(start.elapsed().as_secs_f64()),
        })
    }

    async fn open_endpoint(&self, endpoint: &str) -> anyhow::Result<Subject> {
        let client = ApiClient::new(endpoint, self.connect.api_key.clone())?;
        let name = self.connect.model.clone();
        let models = client.models().await?;
        let Some(model) = models.data.iter().find(|model| model.id == name) else {
            let known: Vec<_> = models.data.iter().map(|model| model.id.as_str()).collect();
            bail!(UsageError(format!(
                "{endpoint} serves no model {name}, only: {}",
                known.join(", ")
            )));
        };
        let task: Task = model
            .task
            .parse()
            .map_err(UsageError)
            .context("cannot read the endpoint's models")?;
        let (endpoint, source) = (Some(endpoint.to_owned()), None);
        let model = Model {
            name: name.clone(),
            task,
            endpoint,
            source,
            weights: None,
            num_parameters: None,
            device: None,
        };
        Ok(Subject {
            target: Target::Http { client, model: name },
            model,
            ids: ENDPOINT_IDS,
            load_seconds: None,
        })
    }

    fn check_length(&self, card: &ModelCard) -> anyhow::Result<()> {
        let answer = if card.task == Task::Chat {
            self.output_tokens
        } else {
            0
        };
        if self.prompt_tokens + answer > card.max_model_len {
            bail!(UsageError(format!(
                "--prompt-tokens {} and --output-tokens {answer}: expected at most {} together",
                self.prompt_tokens, card.max_model_len
            )));
        }
        Ok(())
    }

    fn workload(&self, subject: &Subject, seed: u64, concurrency: usize) -> Workload {
        let prompts = Prompts {
            seed,
            first_id: subject.ids.0,
            end_id: subject.ids.1,
            tokens: self.prompt_tokens,
            shared_prefix: self.shared_prefix,
        };
        Workload {
            task: subject.model.task,
            prompts,
            output_tokens: self.output_tokens,
            warmup_rounds: self.warmup,
            requests: self.requests.unwrap_or(3 * concurrency),
        }
    }

    fn settings(&self, task: Task, seed: u64) -> Settings {
        Settings {
            prompt_tokens: self.prompt_tokens,
            output_tokens: if task == Task::Chat { self.output_tokens } else { 0 },
            requests: self.requests,
            warmup_rounds: self.warmup,
            shared_prefix: self.shared_prefix,
            seed,
            threads: self.connect.engine.threads(),
        }
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    let settings = &report.settings;
    let weights = report.model.weights.as_deref().unwrap_or("an endpoint");
    writeln!(
        out,
        "{} ({weights}), prompts of {} tokens, answers of {}",
        report.model.name, settings.prompt_tokens, settings.output_tokens
    )?;
    writeln!(out, "{}", table(report.model.task, &report.results))?;
    Ok(())
}

/// Rounds, on a terminal; elsewhere a line a concurrency.
fn progress(concurrency: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "concurrency {concurrency}");
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("concurrency {msg} {wide_bar} round {pos}/{len}");
    let bar = ProgressBar::new(0).with_message(concurrency.to_string());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn seed_of_now() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    now.as_nanos() as u64
}
