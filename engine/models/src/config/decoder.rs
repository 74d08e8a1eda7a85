//! The decoder of Llama and its relatives: what differs between them is a field here.

use ferrum_kernels::ops::HeadLayout;
use serde_json::Value;

use super::{raw::RawConfig, rope::RopeConfig};
use crate::LoadError;

/// Bounds beyond every published model; they keep a damaged file from asking for absurd memory.
const MAX_WIDTH: usize = 1 << 17;
const MAX_HEADS: usize = 1024;
const MAX_LAYERS: usize = 1024;
const MAX_VOCAB: usize = 1 << 22;
const MAX_POSITIONS: usize = 1 << 22;

/// A decoder's architecture, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderConfig {
    /// `llama`, `mistral`, `qwen2`, `qwen3`.
    pub(crate) model_type: String,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) heads: HeadLayout,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope: RopeConfig,
    /// One entry a layer: the last positions that a query sees, or all.
    pub(crate) windows: Vec<Option<usize>>,
    /// Query, key and value projections have a bias (Qwen2).
    pub(crate) qkv_bias: bool,
    /// The output projection of attention has a bias.
    pub(crate) o_bias: bool,
    /// The projections of the MLP have a bias.
    pub(crate) mlp_bias: bool,
    /// Query and key heads are normalised before rotation (Qwen3).
    pub(crate) qk_norm: bool,
    /// The output layer is the embedding table.
    pub(crate) tie_word_embeddings: bool,
}

impl DecoderConfig {
    pub(crate) fn read(raw: &RawConfig) -> Result<Self, LoadError> {
        let model_type = raw.architecture().unwrap_or_default().to_owned();
        require_words(raw)?;
        let num_layers = raw.usize("num_hidden_layers", 1..=MAX_LAYERS)?;
        let biases = read_biases(raw, &model_type)?;
        Ok(Self {
            hidden_size: raw.usize("hidden_size", 1..=MAX_WIDTH)?,
            intermediate_size: raw.usize("intermediate_size", 1..=MAX_WIDTH)?,
            vocab_size: read_vocab_size(raw)?,
            max_position_embeddings: raw.usize("max_position_embeddings", 2..=MAX_POSITIONS)?,
            heads: read_heads(raw)?,
            rms_norm_eps: read_eps(raw)?,
            rope: RopeConfig::read(raw)?,
            windows: read_windows(raw, num_layers)?,
            qkv_bias: biases.qkv,
            o_bias: biases.o,
            mlp_bias: biases.mlp,
            qk_norm: model_type == "qwen3",
            tie_word_embeddings: read_tied(raw)?,
            model_type,
        })
    }
}

/// Fields that have one value in every model we know, checked lest another one is computed wrongly.
fn require_words(raw: &RawConfig) -> Result<(), LoadError> {
    if let Some(act) = raw.value("hidden_act").filter(|act| act != "silu") {
        return Err(raw.refuse("hidden_act", act, "silu"));
    }
    match raw.value("partial_rotary_factor") {
        Some(factor) if factor.as_f64() != Some(1.0) => Err(raw.refuse("partial_rotary_factor", factor, "1")),
        _ => Ok(()),
    }
}

fn read_heads(raw: &RawConfig) -> Result<HeadLayout, LoadError> {
    let num_heads = raw.usize("num_attention_heads", 1..=MAX_HEADS)?;
    let num_kv_heads = raw
        .optional_usize("num_key_value_heads", 1..=MAX_HEADS)?
        .unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let allowed = format!("a divisor of {} {num_heads}", raw.spelling("num_attention_heads"));
        return Err(raw.refuse("num_key_value_heads", num_kv_heads, allowed));
    }
    let head_dim = match raw.optional_usize("head_dim", 2..=1024)? {
        Some(head_dim) => head_dim,
        None => {
            let hidden_size = raw.usize("hidden_size", 1..=MAX_WIDTH)?;
            if !hidden_size.is_multiple_of(num_heads) {
                let allowed = format!("a divisor of {} {hidden_size}", raw.spelling("hidden_size"));
                return Err(raw.refuse("num_attention_heads", num_heads, allowed));
            }
            hidden_size / num_heads
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(raw.refuse("head_dim", head_dim, "an even number (halves are rotated)"));
    }
    if let Some(rotated) = raw.optional_usize("rope.dimension_count", 1..=MAX_WIDTH)?
        && rotated != head_dim
    {
        return Err(raw.refuse("rope.dimension_count", rotated, format!("the head's {head_dim}")));
    }
    Ok(HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    })
}

fn read_eps(raw: &RawConfig) -> Result<f32, LoadError> {
    match raw.optional_positive("rms_norm_eps")? {
        Some(eps) if eps < 0.1 => Ok(eps),
        Some(eps) => Err(raw.refuse("rms_norm_eps", eps, "a positive number below 0.1")),
        None => Err(raw.refuse("rms_norm_eps", "missing", "a positive number below 0.1")),
    }
}

fn read_vocab_size(raw: &RawConfig) -> Result<usize, LoadError> {
    // Some GGUF files leave it out; the embedding table has it too.
    let table = raw
        .gguf()
        .and_then(|file| Some(*file.tensors.get("token_embd.weight")?.shape.first()?));
    match (raw.optional_usize("vocab_size", 1..=MAX_VOCAB)?, table) {
        (Some(size), _) => Ok(size),
        (None, Some(rows)) if rows <= MAX_VOCAB => Ok(rows),
        _ => raw.usize("vocab_size", 1..=MAX_VOCAB),
    }
}

fn read_tied(raw: &RawConfig) -> Result<bool, LoadError> {
    match raw.gguf() {
        Some(file) => Ok(!file.tensors.contains_key("output.weight")),
        None => Ok(raw.optional_bool("tie_word_embeddings")?.unwrap_or(false)),
    }
}

struct Biases {
    qkv: bool,
    o: bool,
    mlp: bool,
}

fn read_biases(raw: &RawConfig, model_type: &str) -> Result<Biases, LoadError> {
    if let Some(file) = raw.gguf() {
        let has = |name: &str| file.tensors.contains_key(name);
        return Ok(Biases {
            qkv: has("blk.0.attn_q.bias"),
            o: has("blk.0.attn_output.bias"),
            mlp: has("blk.0.ffn_up.bias"),
        });
    }
    let attention = raw.optional_bool("attention_bias")?.unwrap_or(false);
    Ok(Biases {
        qkv: attention || model_type == "qwen2",
        o: attention,
        mlp: raw.optional_bool("mlp_bias")?.unwrap_or(false),
    })
}

/// The window of each layer. `layer_types` says it layer by layer; before it there were `use_sliding_window` (Qwen, off
/// where it is missing) and `max_window_layers`, the number of first layers that see everything (Qwen, 28 where it is
/// missing).
fn read_windows(raw: &RawConfig, num_layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    let window = raw.optional_usize("sliding_window", 1..=MAX_POSITIONS)?;
    let is_qwen = raw.gguf().is_none() && raw.architecture().is_some_and(|name| name.starts_with("qwen"));
    let used = raw.optional_bool("use_sliding_window")?.unwrap_or(!is_qwen);
    let Some(window) = window.filter(|_| used) else {
        return Ok(vec![None; num_layers]);
    };
    if let Some(types) = raw.value("layer_types") {
        return windows_by_type(raw, &types, window, num_layers);
    }
    let first = match is_qwen {
        true => raw
            .optional_usize("max_window_layers", 0..=MAX_LAYERS)?
            .unwrap_or(28),
        false => 0,
    };
    Ok((0..num_layers)
        .map(|layer| (layer >= first).then_some(window))
        .collect())
}

fn windows_by_type(
    raw: &RawConfig,
    types: &Value,
    window: usize,
    num_layers: usize,
) -> Result<Vec<Option<usize>>, LoadError> {
    let allowed = format!("{num_layers} entries, each full_attention or sliding_attention");
    let windows = types.as_array().and_then(|types| {
        let window_of = |kind: &Value| match kind.as_str()? {
            "full_attention" => Some(None),
            "sliding_attention" => Some(Some(window)),
            _ => None,
        };
        types.iter().map(window_of).collect::<Option<Vec<_>>>()
    });
    match windows {
        Some(windows) if windows.len() == num_layers => Ok(windows),
        _ => Err(raw.refuse("layer_types", types, allowed)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn windows(model_type: &str, fields: Value) -> Vec<Option<usize>> {
        let mut config = fields;
        config["model_type"] = model_type.into();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::io::Write::write_all(&mut file, config.to_string().as_bytes()).expect("written");
        read_windows(&RawConfig::read_json(file.path()).expect("JSON"), 3).expect("windows")
    }

    #[test]
    fn a_mistral_window_is_for_all_layers() {
        assert_eq!(windows("mistral", json!({"sliding_window": 8})), [Some(8); 3]);
        assert_eq!(windows("mistral", json!({"sliding_window": null})), [None; 3]);
    }

    #[test]
    fn a_qwen_window_is_off_unless_used_and_leaves_the_first_layers() {
        assert_eq!(windows("qwen2", json!({"sliding_window": 8})), [None; 3]);
        let used =
            |first| json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": first});
        assert_eq!(windows("qwen2", used(1)), [None, Some(8), Some(8)]);
        assert_eq!(windows("qwen3", used(28)), [None; 3]);
        assert_eq!(
            windows("qwen2", json!({"sliding_window": 8, "use_sliding_window": true})),
            [None; 3]
        );
    }

    #[test]
    fn layer_types_say_it_layer_by_layer() {
        let types = ["sliding_attention", "full_attention", "sliding_attention"];
        let fields = json!({"sliding_window": 8, "use_sliding_window": true, "layer_types": types});
        assert_eq!(windows("qwen3", fields), [Some(8), None, Some(8)]);
    }
}
