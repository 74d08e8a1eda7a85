//! What a simulated engine does, as flags.

use clap::Args;

/// Timing and failures of a simulated engine. Sequences, queue, context length, task and names are those of
/// [`LaunchConfig`](ferrum_engine::LaunchConfig), as for every engine. Each can be given by environment, for pods whose
/// arguments are not ours to choose.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Simulation")]
pub struct SimConfig {
    /// Milliseconds that loading takes
    #[arg(
        long = "sim-start-ms",
        env = "FERRUM_SIM_START_MS",
        value_name = "MS",
        default_value_t = 0
    )]
    pub start_ms: u64,

    /// Milliseconds from the start of a request to its first token, besides the time for its prompt
    #[arg(
        long = "sim-ttft-ms",
        env = "FERRUM_SIM_TTFT_MS",
        value_name = "MS",
        default_value_t = 0
    )]
    pub ttft_ms: u64,

    /// Milliseconds from one token of a sequence to the next
    #[arg(
        long = "sim-tpot-ms",
        env = "FERRUM_SIM_TPOT_MS",
        value_name = "MS",
        default_value_t = 0
    )]
    pub tpot_ms: u64,

    /// Prompt tokens a second; cached ones cost nothing; 0 takes no time
    #[arg(
        long = "sim-prefill-tokens-per-second",
        env = "FERRUM_SIM_PREFILL_TOKENS_PER_SECOND",
        value_name = "N",
        default_value_t = 0
    )]
    pub prefill_tokens_per_second: u64,

    /// Tokens after which an answer ends by itself, where max_tokens allows it
    #[arg(
        long = "sim-answer-tokens",
        env = "FERRUM_SIM_ANSWER_TOKENS",
        value_name = "N",
        default_value_t = 64
    )]
    pub answer_tokens: usize,

    /// KV blocks in the pool
    #[arg(
        long = "sim-kv-blocks",
        env = "FERRUM_SIM_KV_BLOCKS",
        value_name = "N",
        default_value_t = 16_384
    )]
    pub kv_blocks: usize,

    /// Length of an embedding
    #[arg(
        long = "sim-embedding-dims",
        env = "FERRUM_SIM_EMBEDDING_DIMS",
        value_name = "N",
        default_value_t = 64
    )]
    pub embedding_dims: usize,

    /// Fail to load, with this message
    #[arg(
        long = "sim-fail-start",
        env = "FERRUM_SIM_FAIL_START",
        value_name = "MESSAGE"
    )]
    pub fail_start: Option<String>,

    /// Fail for good once so many tokens were made in all
    #[arg(
        long = "sim-fail-after-tokens",
        env = "FERRUM_SIM_FAIL_AFTER_TOKENS",
        value_name = "N"
    )]
    pub fail_after_tokens: Option<u64>,

    /// Abort the process once so many tokens were made in all
    #[arg(
        long = "sim-crash-after-tokens",
        env = "FERRUM_SIM_CRASH_AFTER_TOKENS",
        value_name = "N"
    )]
    pub crash_after_tokens: Option<u64>,

    /// Accept requests, make so many tokens for each and then none; 0 never answers
    #[arg(
        long = "sim-hang-after-tokens",
        env = "FERRUM_SIM_HANG_AFTER_TOKENS",
        value_name = "N"
    )]
    pub hang_after_tokens: Option<usize>,
}

impl Default for SimConfig {
    /// As fast as it can be, never failing.
    fn default() -> Self {
        Self {
            start_ms: 0,
            ttft_ms: 0,
            tpot_ms: 0,
            prefill_tokens_per_second: 0,
            answer_tokens: 64,
            kv_blocks: 16_384,
            embedding_dims: 64,
            fail_start: None,
            fail_after_tokens: None,
            crash_after_tokens: None,
            hang_after_tokens: None,
        }
    }
}

impl SimConfig {
    /// The flags that parse back into this value.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--sim-start-ms={}", self.start_ms),
            format!("--sim-ttft-ms={}", self.ttft_ms),
            format!("--sim-tpot-ms={}", self.tpot_ms),
            format!(
                "--sim-prefill-tokens-per-second={}",
                self.prefill_tokens_per_second
            ),
            format!("--sim-answer-tokens={}", self.answer_tokens),
            format!("--sim-kv-blocks={}", self.kv_blocks),
            format!("--sim-embedding-dims={}", self.embedding_dims),
        ];
        let optional = [
            ("fail-start", self.fail_start.clone()),
            ("fail-after-tokens", self.fail_after_tokens.map(|n| n.to_string())),
            (
                "crash-after-tokens",
                self.crash_after_tokens.map(|n| n.to_string()),
            ),
            ("hang-after-tokens", self.hang_after_tokens.map(|n| n.to_string())),
        ];
        args.extend(
            optional
                .into_iter()
                .filter_map(|(flag, value)| Some(format!("--sim-{flag}={}", value?))),
        );
        args
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        sim: SimConfig,
    }

    fn parse(args: Vec<String>) -> SimConfig {
        Cli::try_parse_from(std::iter::once("serve".to_owned()).chain(args))
            .expect("parses")
            .sim
    }

    #[test]
    fn defaults_are_the_same_in_code_and_flags() {
        assert_eq!(parse(Vec::new()), SimConfig::default());
    }

    #[test]
    fn every_field_survives_the_round_trip() {
        let config = SimConfig {
            start_ms: 1,
            ttft_ms: 2,
            tpot_ms: 3,
            prefill_tokens_per_second: 4,
            answer_tokens: 5,
            kv_blocks: 6,
            embedding_dims: 7,
            fail_start: Some("no weights".to_owned()),
            fail_after_tokens: Some(8),
            crash_after_tokens: Some(9),
            hang_after_tokens: Some(10),
        };
        assert_eq!(parse(config.to_args()), config);
    }
}
