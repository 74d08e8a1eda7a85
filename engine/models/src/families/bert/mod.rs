//! BERT as a text embedder, pooled as sentence-transformers say.
//!
//! References: Devlin et al. 2018 (BERT), Reimers and Gurevych 2019 (Sentence-BERT); numbers are compared with those of
//! the transformers library in `tests/golden_bert.rs`.

mod model;
mod scratch;

use ferrum_engine::Task;
use ferrum_kernels::Backend;

use self::model::BertModel;
use super::{Description, Family, Limits};
use crate::{
    LoadError, Model,
    config::{EncoderConfig, RawConfig},
    weights::loader::WeightLoader,
};

pub(crate) struct Bert;

/// Classes whose encoder is under the same names; a head for another purpose is not loaded.
const CLASSES: [&str; 2] = ["BertModel", "BertForMaskedLM"];

impl Family for Bert {
    type Config = EncoderConfig;
    const NAME: &'static str = "bert";
    // A buffer of 0, 1, 2, …; the pooler and the heads of pre-training, which no embedding uses.
    const IGNORED: &'static [&'static str] = &["embeddings.position_ids", "pooler.dense.", "cls."];

    fn probe(raw: &RawConfig) -> Result<(), String> {
        if raw.architecture() != Some("bert") {
            return Err("it takes bert".to_owned());
        }
        if raw.gguf().is_some() {
            return Err("it takes safetensors, not GGUF".to_owned());
        }
        match raw.class() {
            Some(class) if !CLASSES.contains(&class) => {
                Err(format!("it takes {}, not {class}", CLASSES.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    fn read_config(raw: &RawConfig) -> Result<EncoderConfig, LoadError> {
        EncoderConfig::read(raw)
    }

    fn describe(config: &EncoderConfig) -> Description {
        Description {
            task: Task::Embedding,
            architecture: Self::NAME.to_owned(),
            vocab_size: config.vocab_size,
            max_model_len: config.max_seq_length,
            embedding_dims: config.hidden_size,
        }
    }

    fn check_ranks(_: &EncoderConfig, count: usize) -> Result<(), LoadError> {
        match count {
            1 => Ok(()),
            _ => Err(LoadError::Option {
                option: "tensor_parallel",
                value: count.to_string(),
                allowed: "1, as embedding models run on one device".to_owned(),
            }),
        }
    }

    fn load<B: Backend>(
        loader: &WeightLoader<'_, B>,
        config: &EncoderConfig,
        limits: Limits,
    ) -> Result<Model<B>, LoadError> {
        Ok(Model::Embedding(Box::new(BertModel::load(
            loader, config, limits,
        )?)))
    }
}
