//! The BERT encoder, and how sentence-transformers pools it.

use std::path::Path;

use ferrum_kernels::ops::{Gelu, HeadLayout};
use serde_json::Value;

use super::raw::{RawConfig, positive};
use crate::LoadError;

const MAX_WIDTH: usize = 1 << 17;
const MAX_POSITIONS: usize = 1 << 20;

/// An encoder's architecture, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_layers: usize,
    pub(crate) vocab_size: usize,
    pub(crate) type_vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    /// Tokens that a text may have: the positions, or sentence-transformers' `max_seq_length` where it is less.
    pub(crate) max_seq_length: usize,
    pub(crate) heads: HeadLayout,
    pub(crate) layer_norm_eps: f32,
    pub(crate) gelu: Gelu,
    pub(crate) pooling: Pooling,
    /// Vectors are scaled to unit length.
    pub(crate) normalize: bool,
}

/// From token vectors to one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's.
    Cls,
    /// The mean of all tokens, special ones included.
    Mean,
}

impl EncoderConfig {
    /// Reads config.json and, beside it, sentence-transformers' modules.json, sentence_bert_config.json and the pooling
    /// module's config.json. Without modules.json: mean, then unit length.
    pub(crate) fn read(raw: &RawConfig) -> Result<Self, LoadError> {
        let folder = raw.path().parent().unwrap_or(Path::new(""));
        let positions = raw.usize("max_position_embeddings", 1..=MAX_POSITIONS)?;
        if let Some(kind) = raw
            .value("position_embedding_type")
            .filter(|kind| kind != "absolute")
        {
            return Err(raw.refuse("position_embedding_type", kind, "absolute"));
        }
        let (pooling, normalize) = read_modules(folder)?;
        Ok(Self {
            hidden_size: raw.usize("hidden_size", 1..=MAX_WIDTH)?,
            intermediate_size: raw.usize("intermediate_size", 1..=MAX_WIDTH)?,
            num_layers: raw.usize("num_hidden_layers", 1..=1024)?,
            vocab_size: raw.usize("vocab_size", 1..=1 << 22)?,
            type_vocab_size: raw.usize("type_vocab_size", 1..=1024)?,
            max_position_embeddings: positions,
            max_seq_length: read_max_seq_length(folder)?.unwrap_or(positions).min(positions),
            heads: read_heads(raw)?,
            layer_norm_eps: read_eps(raw)?,
            gelu: read_gelu(raw)?,
            pooling,
            normalize,
        })
    }
}

fn read_heads(raw: &RawConfig) -> Result<HeadLayout, LoadError> {
    let hidden_size = raw.usize("hidden_size", 1..=MAX_WIDTH)?;
    let num_heads = raw.usize("num_attention_heads", 1..=1024)?;
    if !hidden_size.is_multiple_of(num_heads) {
        let allowed = format!("a divisor of hidden_size {hidden_size}");
        return Err(raw.refuse("num_attention_heads", num_heads, allowed));
    }
    Ok(HeadLayout {
        num_heads,
        num_kv_heads: num_heads,
        head_dim: hidden_size / num_heads,
    })
}

fn read_eps(raw: &RawConfig) -> Result<f32, LoadError> {
    let value = raw.value("layer_norm_eps").unwrap_or(Value::Null);
    match positive(&value) {
        Some(eps) if eps < 0.1 => Ok(eps),
        _ => Err(raw.refuse("layer_norm_eps", value, "a positive number below 0.1")),
    }
}

fn read_gelu(raw: &RawConfig) -> Result<Gelu, LoadError> {
    let value = raw.value("hidden_act").unwrap_or(Value::Null);
    match value.as_str() {
        Some("gelu") => Ok(Gelu::Erf),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Gelu::Tanh),
        Some("quick_gelu") => Ok(Gelu::Quick),
        _ => Err(raw.refuse(
            "hidden_act",
            value,
            "gelu, gelu_new, gelu_pytorch_tanh or quick_gelu",
        )),
    }
}

fn read_max_seq_length(folder: &Path) -> Result<Option<usize>, LoadError> {
    let path = folder.join("sentence_bert_config.json");
    if !path.exists() {
        return Ok(None);
    }
    RawConfig::read_json(&path)?.optional_usize("max_seq_length", 1..=MAX_POSITIONS)
}

/// The pooling and whether vectors are normalised, by modules.json.
fn read_modules(folder: &Path) -> Result<(Pooling, bool), LoadError> {
    let path = folder.join("modules.json");
    if !path.exists() {
        return Ok((Pooling::Mean, true));
    }
    let refuse = |field: &str, value: String, allowed: &str| LoadError::Field {
        path: path.clone(),
        field: field.to_owned(),
        value,
        allowed: allowed.to_owned(),
    };
    let text = std::fs::read(&path).map_err(|source| LoadError::Io {
        path: path.clone(),
        source,
    })?;
    let modules: Vec<Value> = serde_json::from_slice(&text)
        .map_err(|error| refuse("the file", error.to_string(), "a list of modules"))?;
    let (mut pooling, mut normalize) = (None, false);
    for module in &modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next() {
            Some("Transformer") => {}
            Some("Pooling") => {
                let inside = module.get("path").and_then(Value::as_str).unwrap_or_default();
                if inside.contains("..") || inside.starts_with('/') {
                    return Err(refuse("path", inside.to_owned(), "a folder beside modules.json"));
                }
                pooling = Some(read_pooling(&folder.join(inside).join("config.json"))?);
            }
            Some("Normalize") => normalize = true,
            _ => {
                return Err(refuse(
                    "type",
                    kind.to_owned(),
                    "Transformer, Pooling or Normalize",
                ));
            }
        }
    }
    Ok((pooling.unwrap_or(Pooling::Mean), normalize))
}

fn read_pooling(path: &Path) -> Result<Pooling, LoadError> {
    let raw = RawConfig::read_json(path)?;
    const MODES: [(&str, Option<Pooling>); 6] = [
        ("pooling_mode_cls_token", Some(Pooling::Cls)),
        ("pooling_mode_lasttoken", None),
        ("pooling_mode_max_tokens", None),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_weightedmean_tokens", None),
    ];
    let allowed = "exactly one of pooling_mode_mean_tokens and pooling_mode_cls_token set to true";
    let mut chosen = None;
    for (field, pooling) in MODES {
        if raw.optional_bool(field)?.unwrap_or(false) {
            if pooling.is_none() || chosen.is_some() {
                return Err(raw.refuse(field, true, allowed));
            }
            chosen = pooling;
        }
    }
    chosen.ok_or_else(|| raw.refuse("pooling_mode_mean_tokens", "false, as all others are", allowed))
}
