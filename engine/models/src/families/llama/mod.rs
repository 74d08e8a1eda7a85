//! Llama and its relatives: Mistral (sliding window), Qwen2 (biases of q, k, v), Qwen3 (norm of q and k heads).
//!
//! References: Touvron et al. 2023 (LLaMA), Jiang et al. 2023 (Mistral 7B), Yang et al. 2024 and 2025 (Qwen2, Qwen3);
//! numbers are compared with those of the transformers library in `tests/golden_llama.rs`.

mod model;
mod scratch;

use ferrum_engine::Task;
use ferrum_kernels::Backend;

use self::model::LlamaModel;
use super::{Description, Family, Limits};
use crate::{
    LoadError, Model,
    config::{DecoderConfig, RawConfig},
    shard,
    weights::{Weights, loader::WeightLoader},
};

pub(crate) struct Llama;

/// Architecture and the class that a checkpoint of it was saved from.
const MEMBERS: [(&str, &str); 4] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

impl Family for Llama {
    type Config = DecoderConfig;
    const NAME: &'static str = "llama";
    // Old checkpoints carry the rotary frequencies as a buffer; a tied checkpoint may carry its table twice.
    const IGNORED: &'static [&'static str] = &["rotary_emb.inv_freq", "lm_head.weight"];

    fn probe(raw: &RawConfig) -> Result<(), String> {
        let names = || MEMBERS.map(|(name, _)| name).join(", ");
        let architecture = raw
            .architecture()
            .ok_or_else(|| format!("it takes {}", names()))?;
        let Some((_, class)) = MEMBERS.iter().find(|(name, _)| *name == architecture) else {
            return Err(format!("it takes {}", names()));
        };
        match raw.class() {
            Some(other) if other != *class => Err(format!("it takes {class}, not {other}")),
            _ => Ok(()),
        }
    }

    fn read_config(raw: &RawConfig) -> Result<DecoderConfig, LoadError> {
        DecoderConfig::read(raw)
    }

    fn describe(config: &DecoderConfig) -> Description {
        Description {
            task: Task::Chat,
            architecture: config.model_type.clone(),
            vocab_size: config.vocab_size,
            max_model_len: config.max_position_embeddings,
            embedding_dims: 0,
        }
    }

    fn arrange_gguf(config: &DecoderConfig, weights: &mut Weights) {
        if config.model_type == "llama" {
            for end in ["weight", "bias"] {
                weights.mark_interleaved(&format!("self_attn.q_proj.{end}"), config.heads.num_heads);
                weights.mark_interleaved(&format!("self_attn.k_proj.{end}"), config.heads.num_kv_heads);
            }
        }
    }

    fn check_ranks(config: &DecoderConfig, count: usize) -> Result<(), LoadError> {
        shard::check_ranks(config, count)
    }

    fn load<B: Backend>(
        loader: &WeightLoader<'_, B>,
        config: &DecoderConfig,
        limits: Limits,
    ) -> Result<Model<B>, LoadError> {
        Ok(Model::Causal(Box::new(LlamaModel::load(loader, config, limits)?)))
    }
}
