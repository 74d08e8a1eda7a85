//! One folder a family: what it accepts, and its architecture over any backend.

pub(crate) mod bert;
pub(crate) mod llama;

use ferrum_engine::Task;
use ferrum_kernels::Backend;

use crate::{
    BatchLimits, LoadError, Model,
    config::RawConfig,
    weights::{Weights, loader::WeightLoader},
};

/// A family of models that share their architecture up to fields of a configuration.
pub(crate) trait Family {
    /// Its configuration, checked.
    type Config;
    /// For messages.
    const NAME: &'static str;
    /// Parts of tensor names that a checkpoint may have beside what the architecture needs.
    const IGNORED: &'static [&'static str];

    /// Whether this is one of its checkpoints, or the reason why not.
    fn probe(raw: &RawConfig) -> Result<(), String>;

    /// Reads and checks the configuration.
    fn read_config(raw: &RawConfig) -> Result<Self::Config, LoadError>;

    /// Its share of the model card.
    fn describe(config: &Self::Config) -> Description;

    /// Says which weights a GGUF file stores in another order than Hugging Face.
    fn arrange_gguf(config: &Self::Config, weights: &mut Weights) {
        let _ = (config, weights);
    }

    /// Refuses a number of devices that the model cannot be split over.
    fn check_ranks(config: &Self::Config, count: usize) -> Result<(), LoadError>;

    /// Loads the weights and allocates scratch memory for steps within `limits`.
    fn load<B: Backend>(
        loader: &WeightLoader<'_, B>,
        config: &Self::Config,
        limits: Limits,
    ) -> Result<Model<B>, LoadError>;
}

/// A family's share of the model card.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Description {
    pub(crate) task: Task,
    pub(crate) architecture: String,
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: usize,
    pub(crate) embedding_dims: usize,
}

/// What a loaded model has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) step: BatchLimits,
    pub(crate) max_model_len: usize,
}
