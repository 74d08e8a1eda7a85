//! The result, for a person and for a program.

use std::{fs, thread};

use comfy_table::Table;
use ferrum_engine::{ModelCard, Task};
use serde::Serialize;

use super::measure::{Figures, Quantiles};
use crate::text::plain_table;

/// What `--json` prints. A field is never removed or given another meaning under the same `schema`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: &'static str,
    /// Version of this program.
    pub(crate) ferrum_version: &'static str,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What was measured.
    pub(crate) model: Model,
    /// How.
    pub(crate) settings: Settings,
    /// From the start of loading to the engine's first token; `null` with an endpoint.
    pub(crate) load_seconds: Option<f64>,
    /// Resident memory of this process after the last round; `null` with an endpoint.
    pub(crate) resident_bytes: Option<u64>,
    /// One entry a concurrency.
    pub(crate) results: Vec<Figures>,
}

/// Version of the JSON.
pub(crate) const SCHEMA: &str = "ferrum.bench/v1";

/// Where it ran.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Name of the processor.
    pub(crate) cpu: Option<String>,
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// Memory of the machine.
    pub(crate) memory_bytes: Option<u64>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) task: Task,
    /// The endpoint, if it was one.
    pub(crate) endpoint: Option<String>,
    /// Where its weights came from.
    pub(crate) source: Option<String>,
    /// Storage of its weights.
    pub(crate) weights: Option<String>,
    /// Its parameters.
    pub(crate) num_parameters: Option<u64>,
    /// Where it runs.
    pub(crate) device: Option<String>,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    /// Tokens of each prompt.
    pub(crate) prompt_tokens: usize,
    /// Tokens of each answer.
    pub(crate) output_tokens: usize,
    /// Requests that count, at each concurrency; `null` is three rounds.
    pub(crate) requests: Option<usize>,
    /// Rounds that do not.
    pub(crate) warmup_rounds: usize,
    /// Tokens that all prompts share.
    pub(crate) shared_prefix: usize,
    /// Seed of the prompts.
    pub(crate) seed: u64,
    /// CPU threads that were asked for.
    pub(crate) threads: Option<usize>,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: name.map(|(_, name)| name.to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kilobytes("/proc/meminfo", "MemTotal:"),
        }
    }
}

impl Model {
    /// An engine in this process.
    pub(crate) fn in_process(card: &ModelCard) -> Self {
        Self {
            name: card.served_names[0].clone(),
            task: card.task,
            endpoint: None,
            source: Some(card.source.clone()),
            weights: Some(card.weights.clone()),
            num_parameters: Some(card.num_parameters),
            device: Some(card.device.clone()),
        }
    }
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes * 1024)
}

/// One line a concurrency.
pub(crate) fn table(task: Task, results: &[Figures]) -> Table {
    match task {
        Task::Chat => chat_table(results),
        Task::Embedding => embedding_table(results),
    }
}

fn chat_table(results: &[Figures]) -> Table {
    let mut table = plain_table(&[
        "CONCURRENCY",
        "PREFILL tok/s",
        "DECODE tok/s",
        "TTFT ms p50/p90/p99",
        "TPOT ms p50/p90/p99",
        "REQUESTS/s",
        "HOST %",
        "FAILED",
    ]);
    for figures in results {
        table.add_row([
            figures.concurrency.to_string(),
            rate(figures.prefill_tokens_per_second),
            rate(figures.decode_tokens_per_second),
            figures
                .ttft_ms
                .map(|times| percentiles(&times))
                .unwrap_or_default(),
            figures
                .tpot_ms
                .map(|times| percentiles(&times))
                .unwrap_or_default(),
            format!("{:.2}", figures.requests_per_second),
            share(figures.host_share),
            figures.failed.to_string(),
        ]);
    }
    table
}

fn embedding_table(results: &[Figures]) -> Table {
    let mut table = plain_table(&[
        "CONCURRENCY",
        "TEXTS/s",
        "TOKENS/s",
        "LATENCY ms p50/p90/p99",
        "HOST %",
        "FAILED",
    ]);
    for figures in results {
        table.add_row([
            figures.concurrency.to_string(),
            format!("{:.1}", figures.requests_per_second),
            rate(Some(figures.tokens_per_second)),
            percentiles(&figures.latency_ms),
            share(figures.host_share),
            figures.failed.to_string(),
        ]);
    }
    table
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1}", 100.0 * value))
}

fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn percentiles(times: &Quantiles) -> String {
    let digits = if times.p99 < 100.0 { 2 } else { 0 };
    format!(
        "{:.digits$} / {:.digits$} / {:.digits$}",
        times.p50, times.p90, times.p99
    )
}
