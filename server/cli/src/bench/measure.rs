//! Rounds of requests, and what their times say.

use std::time::{Duration, Instant};

use ferrum_engine::{StepTimes, Task};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    prompts::Prompts,
    target::{Sample, Target},
};

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Generations or embeddings.
    pub(crate) task: Task,
    /// Prompts.
    pub(crate) prompts: Prompts,
    /// Tokens of each answer.
    pub(crate) output_tokens: usize,
    /// Rounds that are thrown away.
    pub(crate) warmup_rounds: usize,
    /// Requests that count, rounded up to whole rounds.
    pub(crate) requests: usize,
}

/// The figures of one concurrency.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Requests at the same time.
    pub(crate) concurrency: usize,
    /// Requests that were answered.
    pub(crate) requests: usize,
    /// Requests that were not.
    pub(crate) failed: usize,
    /// Why the first of them was not.
    pub(crate) first_failure: Option<String>,
    /// Tokens of all prompts.
    pub(crate) prompt_tokens: usize,
    /// Of these, from the prefix cache.
    pub(crate) cached_tokens: usize,
    /// Tokens of all answers.
    pub(crate) output_tokens: usize,
    /// Sum of the rounds.
    pub(crate) wall_seconds: f64,
    /// Answered requests by wall time; of an embedding model, texts a second.
    pub(crate) requests_per_second: f64,
    /// Prompt and answer tokens by wall time.
    pub(crate) tokens_per_second: f64,
    /// Uncached prompt tokens of a round by the time until its last first token; median of the rounds.
    pub(crate) prefill_tokens_per_second: Option<f64>,
    /// Tokens of all sequences while all of them decode, by that time; median of the rounds.
    pub(crate) decode_tokens_per_second: Option<f64>,
    /// Time to first token.
    pub(crate) ttft_ms: Option<Quantiles>,
    /// Time per token after the first, of each request.
    pub(crate) tpot_ms: Option<Quantiles>,
    /// From request to end.
    pub(crate) latency_ms: Quantiles,
    /// Which part of the engine's steps its device waits for the host; `null` with an endpoint.
    pub(crate) host_share: Option<f64>,
}

/// Of times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    /// Mean.
    pub(crate) mean: f64,
    /// Median.
    pub(crate) p50: f64,
    /// 90th percentile.
    pub(crate) p90: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// Largest.
    pub(crate) max: f64,
}

/// Sends `workload` to `target`, `concurrency` requests a round: all of a round are sent at once, and the next round
/// waits for the last of them, so that prefill and decode of a round can be told apart. `on_round` hears rounds done
/// and in all.
pub(crate) async fn measure(
    target: &Target,
    workload: &Workload,
    concurrency: usize,
    on_round: impl Fn(usize, usize),
) -> Figures {
    let rounds = workload.requests.div_ceil(concurrency);
    let all = workload.warmup_rounds + rounds;
    let mut measured = Vec::with_capacity(rounds);
    let mut before = None;
    for number in 0..all {
        on_round(number, all);
        if number == workload.warmup_rounds {
            before = target.step_times().await;
        }
        // Concurrencies must not share prompts either.
        let first = ((concurrency as u64) << 32) + (number * concurrency) as u64;
        let round = run_round(target, workload, first, concurrency).await;
        if number >= workload.warmup_rounds {
            measured.push(round);
        }
    }
    on_round(all, all);
    let after = target.step_times().await;
    Figures {
        host_share: before
            .zip(after)
            .and_then(|(before, after)| host_share(&before, &after)),
        ..summarise(workload.task, concurrency, &measured)
    }
}

/// Of the time between the two.
fn host_share(before: &StepTimes, after: &StepTimes) -> Option<f64> {
    let host = after.host.seconds - before.host.seconds;
    let all = host + after.device.seconds - before.device.seconds;
    (all > 0.0).then_some(host / all)
}

/// Requests that were sent together.
#[derive(Debug)]
struct Round {
    wall: Duration,
    samples: Vec<Sample>,
    failures: Vec<String>,
    start: Instant,
}

async fn run_round(target: &Target, workload: &Workload, first: u64, concurrency: usize) -> Round {
    let mut requests = JoinSet::new();
    let prompts: Vec<_> = (0..concurrency as u64)
        .map(|i| workload.prompts.prompt(first + i))
        .collect();
    let start = Instant::now();
    for prompt in prompts {
        let (target, task, tokens) = (target.clone(), workload.task, workload.output_tokens);
        requests.spawn(async move { target.request(task, prompt, tokens).await });
    }
    let mut round = Round {
        wall: Duration::ZERO,
        samples: Vec::new(),
        failures: Vec::new(),
        start,
    };
    while let Some(joined) = requests.join_next().await {
        match joined {
            Ok(Ok(sample)) => round.samples.push(sample),
            Ok(Err(error)) => round.failures.push(format!("{error:#}")),
            Err(error) => round.failures.push(error.to_string()),
        }
    }
    round.wall = start.elapsed();
    round
}

impl Round {
    /// Uncached prompt tokens by the time until every request has its first token.
    fn prefill_rate(&self) -> Option<f64> {
        let computed: usize = self
            .samples
            .iter()
            .map(|sample| sample.prompt_tokens - sample.cached_tokens)
            .sum();
        let last = self
            .samples
            .iter()
            .filter_map(|sample| self.at(sample, *sample.pieces.first()?))
            .max()?;
        Some(computed as f64 / last.as_secs_f64()).filter(|rate| rate.is_finite())
    }

    /// Tokens between the last first token and the first last token: while every sequence decodes.
    fn decode_rate(&self) -> Option<f64> {
        let bounds = |sample: &Sample| Some((*sample.pieces.first()?, *sample.pieces.last()?));
        let firsts = self
            .samples
            .iter()
            .filter_map(|sample| self.at(sample, bounds(sample)?.0));
        let lasts = self
            .samples
            .iter()
            .filter_map(|sample| self.at(sample, bounds(sample)?.1));
        let (begin, end) = (firsts.max()?, lasts.min()?);
        let tokens: f64 = self
            .samples
            .iter()
            .map(|sample| self.tokens_between(sample, begin, end))
            .sum();
        let seconds = end.checked_sub(begin)?.as_secs_f64();
        (seconds > 0.0 && tokens > 0.0).then(|| tokens / seconds)
    }

    /// Over HTTP a piece may be a little more or less than a token.
    fn tokens_between(&self, sample: &Sample, begin: Duration, end: Duration) -> f64 {
        let within = |piece: &&Duration| self.at(sample, **piece).is_some_and(|at| at > begin && at <= end);
        let pieces = sample.pieces.iter().filter(within).count();
        pieces as f64 * sample.output_tokens as f64 / sample.pieces.len() as f64
    }

    /// A time of a sample, after the start of the round.
    fn at(&self, sample: &Sample, after_sent: Duration) -> Option<Duration> {
        Some(sample.sent.checked_duration_since(self.start)? + after_sent)
    }
}

fn summarise(task: Task, concurrency: usize, rounds: &[Round]) -> Figures {
    let samples = || rounds.iter().flat_map(|round| &round.samples);
    let sum = |value: fn(&Sample) -> usize| samples().map(value).sum::<usize>();
    let wall_seconds = rounds
        .iter()
        .map(|round| round.wall.as_secs_f64())
        .sum::<f64>()
        .max(f64::MIN_POSITIVE);
    let failures: Vec<_> = rounds.iter().flat_map(|round| &round.failures).collect();
    let requests = samples().count();
    let (prompt_tokens, output_tokens) = (sum(|s| s.prompt_tokens), sum(|s| s.output_tokens));
    let is_chat = task == Task::Chat;
    let ttft = samples().filter_map(|sample| sample.pieces.first().copied());
    Figures {
        concurrency,
        requests,
        failed: failures.len(),
        first_failure: failures.first().map(|text| (*text).clone()),
        prompt_tokens,
        cached_tokens: sum(|s| s.cached_tokens),
        output_tokens,
        wall_seconds,
        requests_per_second: requests as f64 / wall_seconds,
        tokens_per_second: (prompt_tokens + output_tokens) as f64 / wall_seconds,
        prefill_tokens_per_second: median(rounds.iter().filter_map(Round::prefill_rate)),
        decode_tokens_per_second: median(rounds.iter().filter_map(Round::decode_rate)),
        ttft_ms: is_chat.then(|| quantiles(ttft)),
        tpot_ms: is_chat.then(|| quantiles(samples().filter_map(time_per_token))),
        latency_ms: quantiles(samples().map(|sample| sample.total)),
        host_share: None,
    }
}

fn time_per_token(sample: &Sample) -> Option<Duration> {
    let (first, last) = (sample.pieces.first()?, sample.pieces.last()?);
    let steps = u32::try_from(sample.output_tokens.checked_sub(1)?)
        .ok()
        .filter(|steps| *steps > 0)?;
    Some((*last - *first) / steps)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn quantiles(times: impl Iterator<Item = Duration>) -> Quantiles {
    // Three figures from 1 µs to an hour; what is longer counts as an hour.
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
    for time in times {
        histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let (mean, max) = (histogram.mean() / 1000.0, histogram.max() as f64 / 1000.0);
    Quantiles {
        mean,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max,
    }
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
