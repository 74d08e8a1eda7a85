//! Where a generation ends and how it is sampled, by the checkpoint's own word.

use std::path::Path;

use ferrum_engine::DefaultSampling;
use serde_json::Value as Json;

use super::raw::RawConfig;
use crate::{
    LoadError,
    weights::gguf::{Array, GgufFile, Value},
};

/// Control tokens that end a turn or a text in the vocabularies of the families we load.
const END_TOKENS: [&str; 6] = [
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "</s>",
];
/// llama.cpp's token type of a control token.
const CONTROL: i64 = 3;

/// Stop ids and sampling defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Generation {
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) sampling: DefaultSampling,
}

impl Generation {
    /// Reads generation_config.json where it is there; the end of sequence may be in config.json only.
    pub(crate) fn read_folder(folder: &Path, config: &RawConfig) -> Result<Self, LoadError> {
        let path = folder.join("generation_config.json");
        let mut generation = Self::default();
        if path.exists() {
            let raw = RawConfig::read_json(&path)?;
            generation.stop_token_ids = read_ids(&raw)?;
            generation.sampling = read_sampling(&raw)?;
        }
        if generation.stop_token_ids.is_empty() {
            generation.stop_token_ids = read_ids(config)?;
        }
        Ok(generation)
    }

    /// The end of sequence, of turn and of message, by the metadata and by name: many files have only one of them.
    /// GGUF has no sampling defaults.
    pub(crate) fn read_gguf(file: &GgufFile) -> Self {
        let mut ids: Vec<u32> = ["eos", "eot", "eom"]
            .iter()
            .filter_map(|name| file.token_id(name))
            .collect();
        ids.extend(control_tokens_named(file, &END_TOKENS));
        ids.sort_unstable();
        ids.dedup();
        Self {
            stop_token_ids: ids,
            sampling: DefaultSampling::default(),
        }
    }
}

fn control_tokens_named(file: &GgufFile, names: &[&str]) -> Vec<u32> {
    let array = |key| file.value(key).and_then(Value::as_array);
    let tokens = array("tokenizer.ggml.tokens")
        .and_then(Array::strings)
        .unwrap_or_default();
    let types = array("tokenizer.ggml.token_type")
        .and_then(Array::integers)
        .unwrap_or_default();
    let pairs = (0..).zip(tokens.into_iter().zip(types));
    pairs
        .filter(|(_, (token, kind))| *kind == CONTROL && names.contains(token))
        .map(|(id, _)| id)
        .collect()
}

/// `eos_token_id`: one id or several.
fn read_ids(raw: &RawConfig) -> Result<Vec<u32>, LoadError> {
    let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match raw.value("eos_token_id") {
        None => Some(Vec::new()),
        Some(Json::Array(values)) => values.iter().map(id).collect(),
        Some(value) => id(&value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let value = raw.value("eos_token_id").unwrap_or(Json::Null);
        raw.refuse("eos_token_id", value, "a token id or a list of token ids")
    })
}

fn read_sampling(raw: &RawConfig) -> Result<DefaultSampling, LoadError> {
    if raw.optional_bool("do_sample")? == Some(false) {
        return Ok(DefaultSampling::default()); // the other fields are left over from training
    }
    Ok(DefaultSampling {
        temperature: match raw.value("temperature") {
            Some(value) if value.as_f64() == Some(0.0) => Some(0.0),
            _ => raw.optional_positive("temperature")?,
        },
        top_k: raw
            .optional_usize("top_k", 0..=1 << 22)?
            .map(|top_k| top_k as u32),
        top_p: match raw.optional_positive("top_p")? {
            Some(top_p) if top_p > 1.0 => return Err(raw.refuse("top_p", top_p, "above 0, at most 1")),
            top_p => top_p,
        },
        repetition_penalty: raw.optional_positive("repetition_penalty")?,
    })
}
