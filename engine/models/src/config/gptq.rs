//! What a checkpoint says of its GPTQ weights.

mod dynamic;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::raw::RawConfig;
use crate::LoadError;

/// What can be loaded, for messages.
const SUPPORTED: &str = "4-bit gptq, GGUF, or safetensors of float32, float16 or bfloat16";

/// Older files keep the fields of `quantization_config` in a file of their own.
const OWN_FILE: &str = "quantize_config.json";

/// How each linear layer is quantized: to 4 bits, in groups of inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GptqConfig {
    base: Grouping,
    /// Layers for which a rule of their own holds.
    own: BTreeMap<String, Grouping>,
}

/// How the inputs of a layer share scales and zero levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grouping {
    /// Inputs a group; `None` for one group a row.
    pub(crate) group_size: Option<usize>,
    /// What the stored zero levels lack: 1 in the first version of the format.
    pub(crate) zero_offset: u8,
}

impl GptqConfig {
    /// Of layer `module`.
    pub(crate) fn of(&self, module: &str) -> Grouping {
        self.own.get(module).copied().unwrap_or(self.base)
    }

    /// As the model card has it, the checkpoint's own group size first.
    pub(crate) fn label(&self) -> String {
        let own: BTreeSet<_> = self.own.values().map(|grouping| grouping.group_size).collect();
        let others = own.into_iter().filter(|size| *size != self.base.group_size);
        let sizes = [self.base.group_size].into_iter().chain(others);
        let sizes: Vec<String> = sizes
            .map(|size| size.map_or("g-1".to_owned(), |size| format!("g{size}")))
            .collect();
        format!("gptq int4 {}", sizes.join(", "))
    }
}

/// The same for every layer.
impl From<Grouping> for GptqConfig {
    fn from(base: Grouping) -> Self {
        Self {
            base,
            own: BTreeMap::new(),
        }
    }
}

/// What a checkpoint's configuration says, before it is known which layers there are.
pub(crate) struct GptqRules {
    fields: Fields,
    base: Grouping,
}

impl GptqRules {
    /// What config.json of `folder` says, or the file beside it; `None` for weights that are not quantized.
    ///
    /// # Errors
    /// Another quantization, or a kind of GPTQ that there is no code for.
    pub(crate) fn read(raw: &RawConfig, folder: &Path) -> Result<Option<Self>, LoadError> {
        if let Some(values) = raw.value("quantization_config") {
            return Fields::of(raw, "quantization_config.", values).read().map(Some);
        }
        let own = folder.join(OWN_FILE);
        if !own.exists() {
            return Ok(None);
        }
        let raw = RawConfig::read_json(&own)?;
        let mut values = Value::Object(serde_json::Map::new());
        for name in ["quant_method", "dynamic"].into_iter().chain(STORED_FIELDS) {
            values[name] = raw.value(name).unwrap_or(Value::Null);
        }
        if values["quant_method"].is_null() {
            values["quant_method"] = "gptq".into();
        }
        Fields::of(&raw, "", values).read().map(Some)
    }

    /// What that means for the quantized layers.
    ///
    /// # Errors
    /// A rule of the checkpoint that asks for something of a layer that there is no code for.
    pub(crate) fn of_layers<'a>(
        &self,
        modules: impl Iterator<Item = &'a str>,
    ) -> Result<GptqConfig, LoadError> {
        Ok(GptqConfig {
            base: self.base,
            own: dynamic::own_groupings(&self.fields, modules)?,
        })
    }
}

/// The fields that say how a layer is stored. `sym` and `desc_act` say how the quantizer went about it; what came out
/// of it stands in the tensors.
const STORED_FIELDS: [&str; 5] = ["bits", "group_size", "checkpoint_format", "format", "pack_dtype"];

/// The names under which the version of the format stands.
const FORMAT_FIELDS: [&str; 2] = ["checkpoint_format", "format"];

/// The fields, and where an error says that they stand.
struct Fields {
    path: PathBuf,
    prefix: String,
    values: Value,
    /// What an error says behind a value: of which layer it is.
    of: String,
}

impl Fields {
    fn of(raw: &RawConfig, prefix: &str, values: Value) -> Self {
        Self {
            path: raw.path().to_owned(),
            prefix: prefix.to_owned(),
            values,
            of: String::new(),
        }
    }

    fn read(self) -> Result<GptqRules, LoadError> {
        match self.values["quant_method"].as_str() {
            Some("gptq") => {}
            Some(other) => return Err(self.unsupported(other.to_owned())),
            None => return Err(self.unsupported("unnamed quantization".to_owned())),
        }
        if let Some(bits) = self.values["bits"].as_u64().filter(|bits| *bits != 4) {
            return Err(self.unsupported(format!("{bits}-bit gptq")));
        }
        Ok(GptqRules {
            base: self.grouping()?,
            fields: self,
        })
    }

    fn grouping(&self) -> Result<Grouping, LoadError> {
        if self.values["bits"].as_u64() != Some(4) {
            return Err(self.refuse("bits", "4"));
        }
        let group_size = match self.values["group_size"].as_i64() {
            Some(-1) => None,
            Some(size @ (32 | 64 | 128)) => Some(size as usize),
            _ => return Err(self.refuse("group_size", "32, 64, 128 or -1")),
        };
        if !matches!(self.text("pack_dtype"), None | Some("int32")) {
            return Err(self.refuse("pack_dtype", "int32"));
        }
        let format = FORMAT_FIELDS
            .into_iter()
            .find(|name| !self.values[*name].is_null());
        let zero_offset = match format.map(|name| (name, self.text(name))) {
            None | Some((_, Some("gptq"))) => 1,
            Some((_, Some("gptq_v2"))) => 0,
            Some((name, _)) => return Err(self.refuse(name, "gptq or gptq_v2")),
        };
        Ok(Grouping {
            group_size,
            zero_offset,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        match &self.values[name] {
            Value::Null => None,
            value => Some(value.as_str().unwrap_or("not a text")),
        }
    }

    fn refuse(&self, name: &str, allowed: &str) -> LoadError {
        let value = match &self.values[name] {
            Value::Null => "missing".to_owned(),
            value => value.to_string(),
        };
        LoadError::Field {
            path: self.path.clone(),
            field: format!("{}{name}", self.prefix),
            value: format!("{value}{}", self.of),
            allowed: allowed.to_owned(),
        }
    }

    fn unsupported(&self, method: String) -> LoadError {
        LoadError::UnsupportedQuantization {
            path: self.path.clone(),
            method,
            allowed: SUPPORTED,
        }
    }
}
