//! The chat template, and the begin and end of a sequence as text.

use std::{fs, path::Path};

use serde_json::Value as Json;

use crate::{
    LoadError,
    config::RawConfig,
    weights::gguf::{Array, GgufFile, Value},
};

/// What a chat template needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ChatTexts {
    /// Jinja source.
    pub(crate) template: Option<String>,
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
}

impl ChatTexts {
    /// Reads tokenizer_config.json; chat_template.jinja goes before the template in it.
    pub(crate) fn read_folder(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer_config.json");
        let mut texts = Self::default();
        if path.exists() {
            let raw = RawConfig::read_json(&path)?;
            texts.template = template(&raw)?;
            texts.bos_token = token_text(&raw, "bos_token");
            texts.eos_token = token_text(&raw, "eos_token");
        }
        let jinja = folder.join("chat_template.jinja");
        if jinja.exists() {
            let source =
                fs::read_to_string(&jinja).map_err(|source| LoadError::Io { path: jinja, source })?;
            texts.template = Some(source);
        }
        Ok(texts)
    }

    /// Reads GGUF metadata.
    pub(crate) fn read_gguf(file: &GgufFile) -> Self {
        let tokens = file
            .value("tokenizer.ggml.tokens")
            .and_then(Value::as_array)
            .and_then(Array::strings);
        let tokens = tokens.unwrap_or_default();
        let text = |name: &str| Some((*tokens.get(file.token_id(name)? as usize)?).to_owned());
        Self {
            template: file.string("tokenizer.chat_template").map(str::to_owned),
            bos_token: text("bos"),
            eos_token: text("eos"),
        }
    }
}

/// One template, or several by name, of which `default` is for chat.
fn template(raw: &RawConfig) -> Result<Option<String>, LoadError> {
    let allowed = "a text, or a list with a template named default";
    match raw.value("chat_template") {
        None => Ok(None),
        Some(Json::String(source)) => Ok(Some(source)),
        Some(Json::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => Err(raw.refuse("chat_template", "a list without default", allowed)),
            }
        }
        Some(_) => Err(raw.refuse("chat_template", "neither text nor list", allowed)),
    }
}

/// A token's text: as it is, or within an object with its settings.
fn token_text(raw: &RawConfig, field: &str) -> Option<String> {
    match raw.value(field)? {
        Json::String(text) => Some(text),
        Json::Object(token) => Some(token.get("content")?.as_str()?.to_owned()),
        _ => None,
    }
}
