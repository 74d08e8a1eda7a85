//! What a checkpoint says of its GPTQ weights.

use std::path::Path;

use serde_json::Value;

use super::raw::RawConfig;
use crate::LoadError;

/// What can be loaded, for messages.
const SUPPORTED: &str = "4-bit gptq, GGUF, or safetensors of float32, float16 or bfloat16";

/// Older files keep the fields of `quantization_config` in a file of their own.
const OWN_FILE: &str = "quantize_config.json";

/// How the linear layers are quantized: to 4 bits, in groups of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GptqConfig {
    /// Inputs a group; `None` for one group a row.
    pub(crate) group_size: Option<usize>,
    /// What the stored zero levels lack: 1 in the first version of the format.
    pub(crate) zero_offset: u8,
}

impl GptqConfig {
    /// What config.json of `folder` says, or the file beside it; `None` for weights that are not quantized.
    ///
    /// # Errors
    /// Another quantization, or a kind of GPTQ that there is no code for.
    pub(crate) fn read(raw: &RawConfig, folder: &Path) -> Result<Option<Self>, LoadError> {
        if let Some(fields) = raw.value("quantization_config") {
            return Fields::of(raw, "quantization_config.", &fields).read().map(Some);
        }
        let own = folder.join(OWN_FILE);
        if !own.exists() {
            return Ok(None);
        }
        let raw = RawConfig::read_json(&own)?;
        let mut fields = Value::Object(serde_json::Map::new());
        for name in FIELDS {
            fields[name] = raw.value(name).unwrap_or(Value::Null);
        }
        if fields["quant_method"].is_null() {
            fields["quant_method"] = "gptq".into();
        }
        Fields::of(&raw, "", &fields).read().map(Some)
    }

    /// As the model card has it.
    pub(crate) fn label(self) -> String {
        match self.group_size {
            Some(size) => format!("gptq int4 g{size}"),
            None => "gptq int4 g-1".to_owned(),
        }
    }
}

const FIELDS: [&str; 6] = [
    "quant_method",
    "bits",
    "group_size",
    "checkpoint_format",
    "format",
    "pack_dtype",
];

/// The fields, and where an error says that they stand.
struct Fields<'a> {
    raw: &'a RawConfig,
    prefix: &'static str,
    fields: &'a Value,
}

impl<'a> Fields<'a> {
    fn of(raw: &'a RawConfig, prefix: &'static str, fields: &'a Value) -> Self {
        Self { raw, prefix, fields }
    }

    /// `sym` and `desc_act` say how the quantizer went about it; what came out of it stands in the tensors.
    fn read(&self) -> Result<GptqConfig, LoadError> {
        match self.fields["quant_method"].as_str() {
            Some("gptq") => {}
            Some(other) => return Err(self.unsupported(other.to_owned())),
            None => return Err(self.unsupported("unnamed quantization".to_owned())),
        }
        match self.fields["bits"].as_u64() {
            Some(4) => {}
            Some(bits) => return Err(self.unsupported(format!("{bits}-bit gptq"))),
            None => return Err(self.refuse("bits", "4")),
        }
        let group_size = match self.fields["group_size"].as_i64() {
            Some(-1) => None,
            Some(size @ (32 | 64 | 128)) => Some(size as usize),
            _ => return Err(self.refuse("group_size", "32, 64, 128 or -1")),
        };
        if !matches!(self.text("pack_dtype"), None | Some("int32")) {
            return Err(self.refuse("pack_dtype", "int32"));
        }
        // Written under either name.
        let format = ["checkpoint_format", "format"]
            .into_iter()
            .find(|name| !self.fields[*name].is_null());
        let zero_offset = match format.map(|name| (name, self.text(name))) {
            None | Some((_, Some("gptq"))) => 1,
            Some((_, Some("gptq_v2"))) => 0,
            Some((name, _)) => return Err(self.refuse(name, "gptq or gptq_v2")),
        };
        Ok(GptqConfig {
            group_size,
            zero_offset,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        match &self.fields[name] {
            Value::Null => None,
            value => Some(value.as_str().unwrap_or("not a text")),
        }
    }

    fn refuse(&self, name: &str, allowed: &str) -> LoadError {
        let value = match &self.fields[name] {
            Value::Null => "missing".to_owned(),
            value => value.to_string(),
        };
        self.raw.refuse(&format!("{}{name}", self.prefix), value, allowed)
    }

    fn unsupported(&self, method: String) -> LoadError {
        LoadError::UnsupportedQuantization {
            path: self.raw.path().to_owned(),
            method,
            allowed: SUPPORTED,
        }
    }
}
