//! config.json and GGUF metadata behind one way of asking.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{LoadError, weights::gguf::GgufFile};

/// The fields of Hugging Face and where GGUF has them, under `<architecture>.`.
const GGUF_KEYS: [(&str, &str); 11] = [
    ("head_dim", "attention.key_length"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_hidden_layers", "block_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("sliding_window", "attention.sliding_window"),
    ("vocab_size", "vocab_size"),
];

/// A configuration as it was read.
pub(crate) struct RawConfig {
    path: PathBuf,
    source: Source,
}

enum Source {
    Gguf(Arc<GgufFile>),
    Json(Value),
}

impl RawConfig {
    /// Reads a JSON file.
    pub(crate) fn read_json(path: &Path) -> Result<Self, LoadError> {
        let text = fs::read(path).map_err(|source| LoadError::Io {
            path: path.to_owned(),
            source,
        })?;
        let json: Value = serde_json::from_slice(&text).map_err(|error| LoadError::Corrupt {
            path: path.to_owned(),
            what: "JSON".to_owned(),
            reason: error.to_string(),
        })?;
        if !json.is_object() {
            return Err(LoadError::Corrupt {
                path: path.to_owned(),
                what: "JSON".to_owned(),
                reason: "expected an object".to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            source: Source::Json(json),
        })
    }

    pub(crate) fn from_gguf(file: Arc<GgufFile>) -> Self {
        Self {
            path: file.path.clone(),
            source: Source::Gguf(file),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn gguf(&self) -> Option<&Arc<GgufFile>> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            Source::Json(_) => None,
        }
    }

    /// `llama`, `qwen2`, …: `model_type`, or `general.architecture`.
    pub(crate) fn architecture(&self) -> Option<&str> {
        match &self.source {
            Source::Gguf(file) => file.string("general.architecture"),
            Source::Json(json) => json.get("model_type")?.as_str(),
        }
    }

    /// The class that the checkpoint was saved from, such as `LlamaForCausalLM`; GGUF has none.
    pub(crate) fn class(&self) -> Option<&str> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::Json(json) => json.get("architectures")?.get(0)?.as_str(),
        }
    }

    /// A field's value; `null` counts as absent.
    pub(crate) fn value(&self, field: &str) -> Option<Value> {
        match &self.source {
            Source::Gguf(file) => Some(file.value(&self.spelling(field))?.to_json()),
            Source::Json(json) => json.get(field).filter(|value| !value.is_null()).cloned(),
        }
    }

    /// The field as this file spells it.
    pub(crate) fn spelling(&self, field: &str) -> String {
        match &self.source {
            Source::Json(_) => field.to_owned(),
            Source::Gguf(_) => {
                let key = GGUF_KEYS
                    .iter()
                    .find(|(hf, _)| *hf == field)
                    .map_or(field, |(_, key)| key);
                format!("{}.{key}", self.architecture().unwrap_or("general"))
            }
        }
    }

    /// An integer within a range.
    pub(crate) fn usize(&self, field: &str, range: RangeInclusive<usize>) -> Result<usize, LoadError> {
        match self.optional_usize(field, range.clone())? {
            Some(value) => Ok(value),
            None => Err(self.refuse(field, "missing", allowed_range(&range))),
        }
    }

    /// An integer within a range, or absent.
    pub(crate) fn optional_usize(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.refuse(field, value, allowed_range(&range))),
        }
    }

    /// A positive finite number, or absent.
    pub(crate) fn optional_positive(&self, field: &str) -> Result<Option<f32>, LoadError> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => match positive(&value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.refuse(field, value, "a positive number")),
            },
        }
    }

    /// true or false, or absent.
    pub(crate) fn optional_bool(&self, field: &str) -> Result<Option<bool>, LoadError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(value) => Err(self.refuse(field, value, "true or false")),
        }
    }

    /// The error for a value that is not allowed; `field` is spelt as in config.json.
    pub(crate) fn refuse(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> LoadError {
        LoadError::Field {
            path: self.path.clone(),
            field: self.spelling(field),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// A positive finite number as f32.
pub(crate) fn positive(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    (number.is_finite() && number > 0.0).then_some(number)
}

fn allowed_range(range: &RangeInclusive<usize>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}
