//! Rules for some of the layers, `dynamic`, as GPTQModel writes them.
//!
//! A rule is a regular expression and what differs where it matches: `"+:<pattern>"`, or the pattern alone, changes
//! fields; `"-:<pattern>"` says that the layers are not quantized. A pattern matches from a module's first character on
//! and need not reach its last. Of several rules that match, the first one in the file counts.
//!
//! Which layers are quantized stands in the tensors as well: a rule without a quantized layer changes nothing.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::{FORMAT_FIELDS, Fields, Grouping, STORED_FIELDS};
use crate::LoadError;

/// Those of the quantized layers `modules` that have a rule.
///
/// # Errors
/// A rule that cannot be read, or that says of a layer what there is no code for or what is not so.
pub(super) fn own_groupings<'a>(
    fields: &Fields,
    modules: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Grouping>, LoadError> {
    let mut own = BTreeMap::new();
    let rules = match &fields.values["dynamic"] {
        Value::Null => return Ok(own),
        Value::Object(rules) => rules,
        _ => return Err(fields.refuse("dynamic", "an object: patterns and what differs")),
    };
    let mut left: Vec<&str> = modules.collect();
    left.sort_unstable();
    for (key, changes) in rules {
        let rule = Rule::read(fields, key, changes)?;
        let matched = left
            .extract_if(.., |module| rule.matches(module))
            .collect::<Vec<_>>();
        if let Some(module) = matched.first() {
            let grouping = rule.grouping(fields, module)?;
            own.extend(matched.into_iter().map(|module| (module.to_owned(), grouping)));
        }
    }
    Ok(own)
}

struct Rule<'a> {
    /// As the file has it, with its sign.
    key: &'a str,
    pattern: Regex,
    changes: &'a Value,
    is_quantized: bool,
}

impl<'a> Rule<'a> {
    fn read(fields: &Fields, key: &'a str, changes: &'a Value) -> Result<Self, LoadError> {
        let skipped = key.strip_prefix("-:");
        let pattern = skipped.unwrap_or_else(|| key.strip_prefix("+:").unwrap_or(key));
        let pattern = Regex::new(pattern).map_err(|_| LoadError::Field {
            path: fields.path.clone(),
            field: format!("{}dynamic", fields.prefix),
            value: format!("a rule for {key:?}"),
            allowed: "regular expressions, without look-around and references to groups".to_owned(),
        })?;
        Ok(Self {
            key,
            pattern,
            changes,
            is_quantized: skipped.is_none(),
        })
    }

    /// A match that begins later is only found if none begins with the first character.
    fn matches(&self, module: &str) -> bool {
        self.pattern.find(module).is_some_and(|found| found.start() == 0)
    }

    /// Of the layers that it is for, `module` among them.
    fn grouping(&self, fields: &Fields, module: &str) -> Result<Grouping, LoadError> {
        let place = format!("{}dynamic[{:?}]", fields.prefix, self.key);
        if !self.is_quantized {
            return Err(LoadError::Corrupt {
                path: fields.path.clone(),
                what: format!("tensor {module}.qweight"),
                reason: format!("{place} says that this layer is not quantized"),
            });
        }
        let Value::Object(changes) = self.changes else {
            return Err(LoadError::Field {
                path: fields.path.clone(),
                field: place,
                value: format!("{} for {module}", self.changes),
                allowed: "an object: fields and their values".to_owned(),
            });
        };
        let changed = |name: &str| changes.get(name).is_some_and(|value| !value.is_null());
        let names_format = FORMAT_FIELDS.into_iter().any(changed);
        let mut values = serde_json::Map::new();
        for name in STORED_FIELDS {
            let is_own = changed(name) || names_format && FORMAT_FIELDS.contains(&name);
            let value = match is_own {
                true => changes.get(name),
                false => fields.values.get(name),
            };
            values.insert(name.to_owned(), value.cloned().unwrap_or(Value::Null));
        }
        let own = Fields {
            path: fields.path.clone(),
            prefix: format!("{place}."),
            values: Value::Object(values),
            of: format!(" for {module}"),
        };
        own.grouping()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::config::{GptqConfig, GptqRules, RawConfig};

    const MODULES: [&str; 5] = [
        "model.layers.1.mlp.down_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.10.mlp.down_proj",
        "model.layers.10.mlp.up_proj",
        "lm_head",
    ];

    /// In groups of 128, but for `dynamic`.
    fn config(dynamic: &Value) -> Result<GptqConfig, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let text = json!({"quantization_config": {
            "quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq", "dynamic": dynamic,
        }});
        let path = folder.path().join("config.json");
        std::fs::write(&path, text.to_string()).expect("written");
        let raw = RawConfig::read_json(&path).expect("JSON");
        let rules = GptqRules::read(&raw, Path::new("nowhere")).expect("the fields are good");
        let rules = rules.expect("it is quantized");
        rules
            .of_layers(MODULES.into_iter())
            .map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_sizes(dynamic: &Value, expected: [Option<usize>; 5]) {
        let config = config(dynamic).expect("rules");
        assert_eq!(
            MODULES.map(|module| config.of(module).group_size),
            expected,
            "{dynamic}"
        );
    }

    #[test]
    fn without_rules_every_layer_is_as_the_checkpoint_says() {
        for dynamic in [
            json!(null),
            json!({}),
            json!({"lm_head": {}, "model.embed_tokens": {"bits": 8}}),
        ] {
            check_sizes(&dynamic, [Some(128); 5]);
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts_alone() {
        let layer = r"+:model\.layers\.1\..*";
        check_sizes(
            &json!({layer: {"group_size": 32}, ".*\\.up_proj": {"group_size": -1}}),
            [Some(32), Some(32), Some(128), None, Some(128)],
        );
        check_sizes(
            &json!({".*\\.up_proj": {"group_size": -1}, layer: {"group_size": 32}}),
            [Some(32), None, Some(128), None, Some(128)],
        );
        check_sizes(
            &json!({layer: {"desc_act": true}, ".*": {"group_size": 64}}),
            [Some(128), Some(128), Some(64), Some(64), Some(64)],
        );
    }

    #[test]
    fn a_pattern_matches_from_the_first_character_on_and_need_not_reach_the_last() {
        check_sizes(
            &json!({"mlp": {"group_size": 32}, "+:lm": {"group_size": 64}}),
            [Some(128), Some(128), Some(128), Some(128), Some(64)],
        );
        check_sizes(
            &json!({"model.layers.1": {"group_size": 32}}),
            [Some(32), Some(32), Some(32), Some(32), Some(128)],
        );
        check_sizes(
            &json!({".*head|.*down_proj$": {"group_size": 32}}),
            [Some(32), Some(128), Some(32), Some(128), Some(32)],
        );
    }

    #[test]
    fn a_rule_may_name_the_version_of_the_format_under_either_name() {
        for name in FORMAT_FIELDS {
            let config = config(&json!({"lm_head": {name: "gptq_v2"}})).expect("rules");
            assert_eq!(
                MODULES.map(|module| config.of(module).zero_offset),
                [1, 1, 1, 1, 0]
            );
        }
    }

    #[test]
    fn rules_without_code_are_refused_with_the_layer_and_what_is_allowed() {
        for (dynamic, message) in [
            (
                json!({".*\\.10\\..*": {"bits": 8, "group_size": 32}}),
                r#"quantization_config.dynamic[".*\\.10\\..*"].bits is 8 for model.layers.10.mlp.down_proj; expected 4"#,
            ),
            (
                json!({"+:lm_head": {"group_size": 16}}),
                r#"quantization_config.dynamic["+:lm_head"].group_size is 16 for lm_head; expected 32, 64, 128 or -1"#,
            ),
            (
                json!({"lm_head": {"pack_dtype": "int8"}}),
                r#"quantization_config.dynamic["lm_head"].pack_dtype is "int8" for lm_head; expected int32"#,
            ),
            (
                json!({"lm_head": {"format": "marlin"}}),
                r#"dynamic["lm_head"].format is "marlin" for lm_head; expected gptq or gptq_v2"#,
            ),
            (
                json!({"lm_head": 8}),
                r#"quantization_config.dynamic["lm_head"] is 8 for lm_head; expected an object"#,
            ),
            (
                json!({"-:lm_head": {}}),
                r#"tensor lm_head.qweight: quantization_config.dynamic["-:lm_head"] says that this layer is not quantized"#,
            ),
            (
                json!({"+:(?!lm).*": {}}),
                r#"quantization_config.dynamic is a rule for "+:(?!lm).*"; expected regular expressions, without look-around"#,
            ),
            (
                json!(["lm_head"]),
                r#"quantization_config.dynamic is ["lm_head"]; expected an object"#,
            ),
        ] {
            let text = config(&dynamic).expect_err("a refusal");
            assert!(text.contains(message), "{text}");
        }
    }
}
