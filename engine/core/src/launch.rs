//! The one type behind the flags of `ferrum serve`: a manifest becomes it, a pod's arguments spell it.

use std::path::PathBuf;

use clap::Args;

use crate::{Device, Dtype, OutputLayer, Quantization, Task};

/// How an engine process is launched.
///
/// `ferrum serve` parses it, [`Self::to_args`] writes it; a test pins the round trip.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct LaunchConfig {
    /// Model to serve: a short name (smollm2:135m), a hub name (org/name, hf://org/name@revision), a folder or a
    /// .gguf file (path or file://path)
    pub model: String,

    /// OpenAI `model` name that it answers to; may be repeated, the first is the main one [default: the model's own
    /// name]
    #[arg(long = "served-name", value_name = "NAME")]
    pub served_names: Vec<String>,

    /// What the model is for [default: from the weights] [possible values: chat, embedding]
    #[arg(long, value_name = "TASK")]
    pub task: Option<Task>,

    /// Device to run on
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,

    /// Element type of weights that are not quantized: auto keeps what the checkpoint has
    #[arg(long, value_name = "DTYPE", default_value_t = Dtype::Auto)]
    pub dtype: Dtype,

    /// Quantization that the weights must have: auto takes what they have
    #[arg(long, value_name = "SCHEME", default_value_t = Quantization::Auto)]
    pub quantization: Quantization,

    /// How a dense output layer is kept: auto as the checkpoint has it, int8 at 8 bits for shorter steps and a little less
    /// exact logits
    #[arg(long, value_name = "FORMAT", default_value_t = OutputLayer::Auto)]
    pub output_layer: OutputLayer,

    /// Devices that share one replica
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tensor_parallel: usize,

    /// Most tokens a sequence can have, prompt and answer together [default: the model's, bounded by the cache]
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,

    /// Most sequences in one step
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub max_num_seqs: usize,

    /// Most tokens in one step; longer prompts are computed in chunks
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub max_num_batched_tokens: usize,

    /// Memory for the KV cache, such as 512Mi or 8Gi [default: room for 8 sequences of max-model-len, at most a
    /// quarter of free memory; on a GPU: nine tenths of what the weights leave free]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub kv_cache_memory: Option<u64>,

    /// Compute every prompt from its start, without reusing cached prefixes
    #[arg(long = "no-prefix-caching", action = clap::ArgAction::SetFalse)]
    pub prefix_caching: bool,

    /// Give a request the same tokens whatever else runs beside it: on device cpu it always is so, on GPUs it costs speed
    #[arg(long)]
    pub batch_invariant: bool,

    /// Requests that may wait; one more is answered with 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_waiting: usize,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,

    /// Port for HTTP and gRPC; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// Seconds that running requests may take to finish after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub drain_timeout_seconds: u64,
}

impl LaunchConfig {
    /// The defaults of every flag, for `model`.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            served_names: Vec::new(),
            task: None,
            device: Device::Cpu,
            dtype: Dtype::Auto,
            quantization: Quantization::Auto,
            output_layer: OutputLayer::Auto,
            tensor_parallel: 1,
            max_model_len: None,
            max_num_seqs: 32,
            max_num_batched_tokens: 512,
            kv_cache_memory: None,
            prefix_caching: true,
            batch_invariant: false,
            max_waiting: 256,
            threads: None,
            host: "127.0.0.1".to_owned(),
            port: 8080,
            drain_timeout_seconds: 120,
        }
    }

    /// The arguments that `ferrum serve` parses back into this value.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![self.model.clone()];
        let mut push = |flag: &str, value: String| args.push(format!("--{flag}={value}"));
        for name in &self.served_names {
            push("served-name", name.clone());
        }
        if let Some(task) = self.task {
            push("task", task.to_string());
        }
        push("device", self.device.to_string());
        push("dtype", self.dtype.to_string());
        push("quantization", self.quantization.to_string());
        push("tensor-parallel", self.tensor_parallel.to_string());
        if let Some(tokens) = self.max_model_len {
            push("max-model-len", tokens.to_string());
        }
        push("max-num-seqs", self.max_num_seqs.to_string());
        push("max-num-batched-tokens", self.max_num_batched_tokens.to_string());
        if let Some(bytes) = self.kv_cache_memory {
            push("kv-cache-memory", bytes.to_string());
        }
        push("max-waiting", self.max_waiting.to_string());
        if let Some(threads) = self.threads {
            push("threads", threads.to_string());
        }
        push("host", self.host.clone());
        push("port", self.port.to_string());
        push("drain-timeout-seconds", self.drain_timeout_seconds.to_string());
        if !self.prefix_caching {
            args.push("--no-prefix-caching".to_owned());
        }
        if self.output_layer != OutputLayer::Auto {
            args.push(format!("--output-layer={}", self.output_layer));
        }
        if self.batch_invariant {
            args.push("--batch-invariant".to_owned());
        }
        args
    }

    /// Checks what a single value cannot tell.
    ///
    /// # Errors
    /// The first contradiction, naming flag, value and what is allowed.
    pub fn validate(&self) -> Result<(), LaunchError> {
        let refuse = |flag: &'static str, value: String, allowed: &'static str| {
            Err(LaunchError { flag, value, allowed })
        };
        if self.tensor_parallel == 0 {
            return refuse("tensor-parallel", "0".to_owned(), "1 or more");
        }
        if self.tensor_parallel != 1 && self.device == Device::Cpu {
            return refuse(
                "tensor-parallel",
                self.tensor_parallel.to_string(),
                "1 on device cpu",
            );
        }
        if self.max_num_seqs == 0 || self.max_num_seqs > 1024 {
            return refuse("max-num-seqs", self.max_num_seqs.to_string(), "1 to 1024");
        }
        if self.max_num_batched_tokens < self.max_num_seqs || self.max_num_batched_tokens > 65_536 {
            let allowed = "max-num-seqs to 65536 (each running sequence needs one token a step)";
            return refuse(
                "max-num-batched-tokens",
                self.max_num_batched_tokens.to_string(),
                allowed,
            );
        }
        if self.max_model_len.is_some_and(|tokens| tokens < 2) {
            return refuse(
                "max-model-len",
                self.max_model_len.unwrap_or(0).to_string(),
                "2 or more",
            );
        }
        if self.threads == Some(0) {
            return refuse("threads", "0".to_owned(), "1 or more");
        }
        Ok(())
    }

    /// The local path, when the model is one.
    pub fn local_path(&self) -> Option<PathBuf> {
        local_path(&self.model)
    }
}

/// The path that `model` names: `file://…`, `~/…`, what starts with `/` or `.`, and a `.gguf` file of this folder. No
/// organisation of the hub begins with a dot: `.cache/model` is a path like `./model`.
pub fn local_path(model: &str) -> Option<PathBuf> {
    if let Some(path) = model.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    if let Some(rest) = model.strip_prefix("~/") {
        return Some(std::env::home_dir()?.join(rest));
    }
    let is_gguf = model.len() > 5 && model.to_ascii_lowercase().ends_with(".gguf");
    let is_path = model.starts_with(['/', '.']) || (!model.contains('/') && is_gguf);
    is_path.then(|| PathBuf::from(model))
}

/// A launch configuration that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {value}: expected {allowed}")]
pub struct LaunchError {
    /// Flag without dashes.
    pub flag: &'static str,
    /// Value given.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Parses a byte count: a number, or a number with Ki, Mi, Gi, Ti, k, M, G or T (Kubernetes' quantities).
///
/// # Errors
/// What is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "`{text}` is not a size: expected a number with Ki, Mi, Gi or Ti, such as 512Mi"
            ));
        }
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size: expected for example 512Mi or 8Gi"))?;
    Ok((value * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        launch: LaunchConfig,
    }

    fn parse(config: &LaunchConfig) -> LaunchConfig {
        Cli::try_parse_from(std::iter::once("serve".to_owned()).chain(config.to_args()))
            .expect("parses")
            .launch
    }

    #[test]
    fn defaults_are_the_same_in_code_and_flags() {
        let config = LaunchConfig::new("org/name");
        assert_eq!(
            Cli::try_parse_from(["serve", "org/name"]).expect("parses").launch,
            config
        );
        assert_eq!(parse(&config), config);
    }

    #[test]
    fn every_field_survives_the_round_trip() {
        let config = LaunchConfig {
            model: "hf://org/name@main".to_owned(),
            served_names: vec!["a".to_owned(), "b/c".to_owned()],
            task: Some(Task::Embedding),
            device: Device::Cpu,
            dtype: Dtype::F16,
            quantization: Quantization::Gguf,
            output_layer: OutputLayer::Int8,
            tensor_parallel: 2,
            max_model_len: Some(4096),
            max_num_seqs: 7,
            max_num_batched_tokens: 99,
            kv_cache_memory: Some(1 << 30),
            prefix_caching: false,
            batch_invariant: true,
            max_waiting: 3,
            threads: Some(2),
            host: "0.0.0.0".to_owned(),
            port: 0,
            drain_timeout_seconds: 5,
        };
        assert_eq!(parse(&config), config);
    }

    #[test]
    fn sizes_parse_like_kubernetes_quantities() {
        assert_eq!(parse_bytes("1.5Gi"), Ok(3 << 29));
        assert_eq!(parse_bytes("10M"), Ok(10_000_000));
        assert!(parse_bytes("12 apples").is_err());
        assert!(parse_bytes("").is_err());
    }
}
