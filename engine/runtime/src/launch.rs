//! From a checkpoint on disk to an engine that has made its first token.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::Instant,
};

use ferrum_engine::{Device, LaunchConfig, LaunchError, ModelCard, Phase, SharedEngine, Task};
use ferrum_kernels::{Backend, BackendError, cpu::CpuBackend};
use ferrum_models::{Checkpoint, Embedder, LoadError, LoadOptions, Model};
use tokenizers::Tokenizer;

use crate::{
    Generator, TextEmbedder,
    block_pool::BLOCK_SIZE,
    cuda,
    engine::panic_message,
    kv_size::{FreeMemory, KvCacheTooSmall, KvDemand, KvSize},
    memory::available_bytes,
    rank::RankModel,
};

/// An engine that has made a token, and what a server needs beside it.
pub struct Launched {
    /// The engine.
    pub engine: SharedEngine,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model; the same as the engine's own.
    pub card: ModelCard,
}

/// Why an engine could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// A configuration that contradicts itself.
    #[error(transparent)]
    Config(#[from] LaunchError),
    /// The device is not there, or cannot be used.
    #[error("device {device} cannot be used: {reason}")]
    Device {
        /// The configuration's.
        device: Device,
        /// What is missing.
        reason: String,
    },
    /// A cache in which no sequence of the length asked for fits.
    #[error(transparent)]
    KvCacheTooSmall(#[from] KvCacheTooSmall),
    /// A checkpoint that cannot be loaded, or is not what the configuration says.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Memory for the cache and the buffers of a step.
    #[error("no memory for the KV cache and the buffers of a step: {0}")]
    Memory(#[source] BackendError),
    /// A task that the model is not for.
    #[error("task {wanted} was asked for, {model} ({architecture}) is for {found}")]
    Task {
        /// The configuration's.
        wanted: Task,
        /// The model's.
        found: Task,
        /// The model.
        model: String,
        /// Its architecture.
        architecture: String,
    },
    /// The system gave no thread.
    #[error("no thread for the engine: {0}")]
    Thread(#[source] std::io::Error),
    /// The first token could not be made.
    #[error("the model is loaded, but fails at its first token: {reason}")]
    WarmUp {
        /// What the step said.
        reason: String,
    },
}

/// Opens the checkpoint at `path`, loads it as `config` says and makes a first token.
///
/// `on_phase` hears [`Phase::Loading`] and [`Phase::Warming`]; the model is ready when this returns.
///
/// # Errors
/// See [`LaunchFailure`].
pub fn launch(
    config: &LaunchConfig,
    path: &Path,
    on_phase: impl Fn(Phase) + Send + Sync + 'static,
) -> Result<Launched, LaunchFailure> {
    config.validate()?;
    on_phase(Phase::Loading { done: 0, total: 0 });
    let checkpoint = ferrum_models::open(path)?;
    let launch = Launch {
        config,
        checkpoint: &checkpoint,
        on_phase: &on_phase,
    };
    launch.check_task()?;
    checkpoint.check_ranks(config.tensor_parallel)?;
    match config.device {
        Device::Cpu => {
            let cores = || thread::available_parallelism().map_or(1, NonZero::get);
            launch.run(vec![CpuBackend::new(config.threads.unwrap_or_else(cores))])
        }
        Device::Cuda => cuda::run(&launch),
    }
}

/// Whether the device that `config` asks for is there; to be asked before a model is fetched.
///
/// # Errors
/// [`LaunchFailure::Config`] if this build has no such device, [`LaunchFailure::Device`] if this machine has none.
pub fn check_device(config: &LaunchConfig) -> Result<(), LaunchFailure> {
    match config.device {
        Device::Cpu => Ok(()),
        Device::Cuda => cuda::check(config),
    }
}

pub(crate) struct Launch<'a> {
    pub(crate) config: &'a LaunchConfig,
    pub(crate) checkpoint: &'a Checkpoint,
    on_phase: &'a (dyn Fn(Phase) + Sync),
}

impl Launch<'_> {
    fn check_task(&self) -> Result<(), LaunchFailure> {
        let facts = self.checkpoint.facts();
        match self.config.task {
            Some(wanted) if wanted != facts.task => Err(LaunchFailure::Task {
                wanted,
                found: facts.task,
                model: self.config.model.clone(),
                architecture: facts.architecture.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// On the ranks of `backends`, in their order; an encoder has one.
    pub(crate) fn run<B: Backend>(&self, backends: Vec<B>) -> Result<Launched, LaunchFailure> {
        let start = Instant::now();
        let (models, tokenizer) = self.load(&backends)?;
        let seconds = start.elapsed().as_secs_f64();
        let (device, num_devices) = (backends[0].device_name(), backends.len());
        let card = self.card(device);
        let (architecture, weights) = (&*card.architecture, &*card.weights);
        let allocated_bytes = backends.iter().map(Backend::allocated_bytes).sum::<usize>();
        let gigabytes = self.checkpoint.weight_bytes() as f64 / 1e9;
        let rate = format_args!(
            "{gigabytes:.2} GB in {seconds:.2} s, {:.1} GB/s",
            gigabytes / seconds
        );
        tracing::info!(
            architecture,
            weights,
            device,
            num_devices,
            allocated_bytes,
            "the model is loaded: {rate}"
        );
        let (mut ranks, mut encoder) = (Vec::new(), None);
        for (backend, model) in backends.into_iter().map(Arc::new).zip(models) {
            match model {
                Model::Causal(model) => ranks.push(RankModel { backend, model }),
                Model::Embedding(model) => encoder = Some((backend, model)),
            }
        }
        let (engine, card) = match encoder {
            None => self.start_generator(ranks, card)?,
            Some((backend, model)) => self.start_embedder(backend, model, card)?,
        };
        Ok(Launched {
            engine,
            tokenizer: Arc::new(tokenizer),
            card,
        })
    }

    /// Weights of every rank at once, and beside them, as it takes as long, the tokenizer.
    fn load<B: Backend>(&self, backends: &[B]) -> Result<(Vec<Model<B>>, Tokenizer), LaunchFailure> {
        let (first, others) = backends.split_first().expect("an engine has a device");
        thread::scope(|scope| {
            let tokenizer = scope.spawn(|| self.checkpoint.tokenizer());
            let others: Vec<_> = others
                .iter()
                .map(|backend| scope.spawn(|| self.load_rank(backend)))
                .collect();
            let mut models = vec![self.load_rank(first)?];
            for other in others {
                models.push(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            let tokenizer = tokenizer.join().unwrap_or_else(|panic| {
                let reason = panic_message(&*panic);
                Err(LoadError::Tokenizer {
                    path: self.checkpoint.path().to_owned(),
                    reason,
                })
            });
            Ok((models, tokenizer?))
        })
    }

    fn load_rank<B: Backend>(&self, backend: &B) -> Result<Model<B>, LoadError> {
        let progress = |done, total| (self.on_phase)(Phase::Loading { done, total });
        let is_first = backend.rank().index == 0;
        let options = LoadOptions {
            dtype: self.config.dtype,
            quantization: self.config.quantization,
            output_layer: self.config.output_layer,
            max_model_len: self.config.max_model_len,
            max_num_batched_tokens: self.config.max_num_batched_tokens,
            max_num_seqs: self.config.max_num_seqs,
            progress: is_first.then_some(&progress as &dyn Fn(u64, u64)),
        };
        self.checkpoint.load(backend, &options)
    }

    fn start_generator<B: Backend>(
        &self,
        ranks: Vec<RankModel<B>>,
        card: ModelCard,
    ) -> Result<(SharedEngine, ModelCard), LaunchFailure> {
        let model = &ranks[0].model;
        // Every rank has as many blocks as the one with least room.
        let free_bytes = ranks.iter().filter_map(|rank| rank.backend.free_bytes()).min();
        let demand = KvDemand {
            block_bytes: model.kv_layout(BLOCK_SIZE, 1).block_bytes(),
            kv_cache_memory: self.config.kv_cache_memory,
            max_model_len: self.config.max_model_len,
            model_max_len: model.max_model_len(),
            free: free_bytes.map_or_else(|| FreeMemory::Shared(available_bytes()), FreeMemory::Own),
        };
        let KvSize {
            num_blocks,
            max_model_len,
        } = demand.decide()?;
        let cache_bytes = demand.block_bytes * num_blocks;
        tracing::info!(num_blocks, cache_bytes, max_model_len, "the KV cache is sized");
        if max_model_len < model.max_model_len() {
            let of_model = model.max_model_len();
            tracing::warn!(
                max_model_len,
                of_model,
                "sequences are shorter than the model allows, to fit the cache"
            );
        }
        let card = ModelCard {
            max_model_len,
            block_size: BLOCK_SIZE,
            num_blocks,
            ..card
        };
        let mut generator = Generator::on_ranks(ranks, self.config, (num_blocks, max_model_len))
            .map_err(LaunchFailure::Memory)?;
        self.warm_up(|| generator.warm_up())?;
        let engine = generator
            .spawn(card.clone(), self.config)
            .map_err(LaunchFailure::Thread)?;
        Ok((engine, card))
    }

    fn start_embedder<B: Backend>(
        &self,
        backend: Arc<B>,
        model: Box<dyn Embedder<B>>,
        card: ModelCard,
    ) -> Result<(SharedEngine, ModelCard), LaunchFailure> {
        let card = ModelCard {
            max_model_len: model.max_model_len(),
            ..card
        };
        let mut embedder = TextEmbedder::new(backend, model, self.config).map_err(LaunchFailure::Memory)?;
        self.warm_up(|| embedder.warm_up())?;
        let engine = embedder
            .spawn(card.clone(), self.config)
            .map_err(LaunchFailure::Thread)?;
        Ok((engine, card))
    }

    fn warm_up(&self, first_token: impl FnOnce() -> Result<(), BackendError>) -> Result<(), LaunchFailure> {
        (self.on_phase)(Phase::Warming);
        match catch_unwind(AssertUnwindSafe(first_token)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LaunchFailure::WarmUp {
                reason: error.to_string(),
            }),
            Err(panic) => Err(LaunchFailure::WarmUp {
                reason: panic_message(&*panic),
            }),
        }
    }

    /// The card as far as it does not depend on the cache.
    fn card(&self, device: &'static str) -> ModelCard {
        let facts = self.checkpoint.facts().clone();
        let mut served_names = self.config.served_names.clone();
        if served_names.is_empty() {
            served_names.push(own_name(self.config));
        }
        ModelCard {
            source: source(self.config),
            served_names,
            task: facts.task,
            architecture: facts.architecture,
            weights: facts.weights,
            num_parameters: facts.num_parameters,
            device: device.to_owned(),
            max_model_len: facts.max_model_len,
            vocab_size: facts.vocab_size,
            max_num_seqs: self.config.max_num_seqs,
            block_size: 0,
            num_blocks: 0,
            embedding_dims: facts.embedding_dims,
            chat_template: facts.chat_template,
            bos_token: facts.bos_token,
            eos_token: facts.eos_token,
            stop_token_ids: facts.stop_token_ids,
            default_sampling: facts.default_sampling,
        }
    }
}

/// Where the weights come from, as a URL: a path is `file://`, a hub name is `hf://`.
fn source(config: &LaunchConfig) -> String {
    match config.local_path() {
        Some(path) => format!("file://{}", path.display()),
        None if config.model.contains("://") || !config.model.contains('/') => config.model.clone(),
        None => format!("hf://{}", config.model),
    }
}

/// The name that a model answers to if none was given: `org/name` of the hub, the short name, or the last part of a
/// path without `.gguf`.
fn own_name(config: &LaunchConfig) -> String {
    if let Some(path) = config.local_path() {
        let name = path
            .file_name()
            .map_or_else(|| config.model.clone().into(), |name| name.to_string_lossy());
        return name.strip_suffix(".gguf").unwrap_or(&name).to_owned();
    }
    let name = config.model.strip_prefix("hf://").unwrap_or(&config.model);
    name.split_once('@')
        .map_or(name, |(name, _revision)| name)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_answers_to_its_own_name_unless_told_otherwise() {
        let name = |model: &str| own_name(&LaunchConfig::new(model));
        assert_eq!(name("hf://org/name@main"), "org/name");
        assert_eq!(name("org/name"), "org/name");
        assert_eq!(name("smollm2:135m"), "smollm2:135m");
        assert_eq!(name("file:///models/tiny"), "tiny");
        assert_eq!(name("./SmolLM2.Q4_1.gguf"), "SmolLM2.Q4_1");
    }

    #[test]
    fn a_source_is_a_url() {
        let source = |model: &str| source(&LaunchConfig::new(model));
        assert_eq!(source("org/name@main"), "hf://org/name@main");
        assert_eq!(source("hf://org/name"), "hf://org/name");
        assert_eq!(source("/models/tiny"), "file:///models/tiny");
    }
}
