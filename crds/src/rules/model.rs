//! Rules on what is served, under which name.

use serde_json::Value;

use super::{Rule, text};
use crate::{FieldPath, ModelSource, Problem};

pub(super) const RULES: &[Rule] = &[
    MODEL,
    MODEL_HUB,
    MODEL_WEB,
    MODEL_CLAIM,
    MODEL_FILE,
    SERVED_NAMES,
    QUANTIZATION_OF_GGUF,
];

pub(super) const NAME: Rule = Rule {
    field: "metadata.name",
    cel: "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.metadata.name.size() <= 63",
    shown: "'metadata.name: \"' + self.metadata.name + '\"'",
    expected: "at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends",
    find: |object, rule| {
        let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = |name: &str| {
            name.len() <= 63
                && name.starts_with(is_edge)
                && name.ends_with(is_edge)
                && name.chars().all(|c| is_edge(c) || c == '-')
        };
        rule.broken_if(
            object,
            text(object, rule.field).is_some_and(|name| !is_label(name)),
        )
    },
};

const MODEL: Rule = Rule {
    field: "spec.model",
    cel: "self.model.matches('^(hf|https|pvc|file)://')",
    shown: "'\"' + self.model + '\"'",
    expected: "hf://org/name, hf://org/name@revision, https://host/path.gguf, pvc://claim/path or \
               file:///absolute/path",
    find: |object, rule| {
        let is_other = |model: &str| {
            !["hf://", "https://", "pvc://", "file://"]
                .iter()
                .any(|s| model.starts_with(s))
        };
        model_problem(object, rule, is_other)
    },
};

const MODEL_HUB: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('hf://') || self.model.matches('^hf://[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?/\
          [A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?(@[A-Za-z0-9][A-Za-z0-9._/-]*)?$')",
    shown: "'\"' + self.model + '\"'",
    expected: "hf://org/name or hf://org/name@revision, with letters, digits, `.`, `_` and `-` in org and name, and a \
               branch, tag or commit behind the `@`",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("hf://")),
};

const MODEL_WEB: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('https://') || self.model.matches('^https://[A-Za-z0-9][A-Za-z0-9.:-]*/\
          [A-Za-z0-9._~%+@/-]+[.]gguf$')",
    shown: "'\"' + self.model + '\"'",
    expected: "https://host/path.gguf, the address of one GGUF file without a query",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("https://")),
};

const MODEL_CLAIM: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('pvc://') || (self.model.matches('^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?\
          (/([A-Za-z0-9._@+-][A-Za-z0-9._@+/-]*)?)?$') && !self.model.contains('/../') && !self.model.endsWith('/..'))",
    shown: "'\"' + self.model + '\"'",
    expected: "pvc://claim/path with the name of a PersistentVolumeClaim and a path without `..`",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("pvc://")),
};

const MODEL_FILE: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('file://') || (self.model.matches('^file:///.') && !self.model.contains('/../') \
          && !self.model.endsWith('/..'))",
    shown: "'\"' + self.model + '\"'",
    expected: "an absolute path without `..`: file:///absolute/path",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("file://")),
};

const SERVED_NAMES: Rule = Rule {
    field: "spec.servedNames",
    cel: "!has(self.servedNames) || self.servedNames.all(name, name.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*$'))",
    shown: "'\"' + self.servedNames.filter(name, !name.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*$'))[0] + '\"'",
    expected: "letters, digits, `.`, `_`, `:`, `/` and `-`, with a letter or digit first",
    find: |object, rule| {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._:/-".contains(c))
        };
        rule.broken_items(object, |name| name.as_str().is_none_or(is_name))
    },
};

const QUANTIZATION_OF_GGUF: Rule = Rule {
    field: "spec.quantization",
    cel: "!has(self.quantization) || self.quantization in ['auto', 'gguf'] || self.model.startsWith('hf://') \
          || !self.model.endsWith('.gguf')",
    shown: "self.quantization",
    expected: "auto or gguf, as spec.model is a .gguf file",
    find: |object, rule| {
        let is_file = text(object, "spec.model")
            .is_some_and(|model| !model.starts_with("hf://") && model.ends_with(".gguf"));
        let is_gguf = text(object, rule.field).is_none_or(|word| ["auto", "gguf"].contains(&word));
        rule.broken_if(object, is_file && !is_gguf)
    },
};

/// What the one parser of sources says, about a source of this rule's kind.
fn model_problem(object: &Value, rule: &Rule, is_of_kind: fn(&str) -> bool) -> Vec<Problem> {
    let Some(model) = text(object, rule.field).filter(|model| is_of_kind(model)) else {
        return Vec::new();
    };
    let problem =
        |expected: String| Problem::invalid(FieldPath::of(rule.field), &Value::from(model), expected);
    ModelSource::parse(model).err().map(problem).into_iter().collect()
}
