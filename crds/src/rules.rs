//! What a schema cannot say: each rule once for the API server (CEL) and once for us, side by side.
//!
//! A test evaluates both forms on the same objects; they must agree.

use ferrum_engine::parse_bytes;
use serde_json::Value;

use crate::{FieldPath, ModelSource, Problem};

/// A rule over a whole object.
pub(crate) struct Rule {
    /// Field that it speaks of, from the root.
    pub(crate) field: &'static str,
    /// The rule for the API server; `self` is the object or its spec, by the list that the rule is in.
    pub(crate) cel: &'static str,
    /// What is allowed.
    pub(crate) expected: &'static str,
    /// The same rule for us: every value that breaks it. A field that is absent or of a wrong type breaks nothing
    /// here, as the shape was checked before.
    pub(crate) find: fn(&Value, &Self) -> Vec<Problem>,
}

impl Rule {
    /// What the API server says when it is broken.
    pub(crate) fn message(&self) -> String {
        format!("expected {}", self.expected)
    }

    /// Field relative to the spec; metadata's fields are not part of a CRD's schema and cannot be named.
    pub(crate) fn cel_field_path(&self) -> Option<&'static str> {
        self.field.strip_prefix("spec")
    }

    /// The field's own value breaks it.
    fn broken(&self, object: &Value) -> Vec<Problem> {
        let value = at(object, self.field).unwrap_or(&Value::Null);
        vec![Problem::invalid(FieldPath::of(self.field), value, self.expected)]
    }

    fn broken_if(&self, object: &Value, is_broken: bool) -> Vec<Problem> {
        if is_broken {
            self.broken(object)
        } else {
            Vec::new()
        }
    }
}

/// Every problem of an object whose shape is right.
pub(crate) fn find_problems(object: &Value) -> Vec<Problem> {
    object_rules()
        .chain(spec_rules())
        .flat_map(|rule| (rule.find)(object, rule))
        .collect()
}

/// Rules whose `self` is the object.
pub(crate) fn object_rules() -> impl Iterator<Item = &'static Rule> {
    [&NAME].into_iter()
}

/// Rules whose `self` is the spec.
pub(crate) fn spec_rules() -> impl Iterator<Item = &'static Rule> {
    [
        &MODEL,
        &MODEL_HUB,
        &MODEL_WEB,
        &MODEL_CLAIM,
        &MODEL_FILE,
        &SERVED_NAMES,
        &TENSOR_PARALLEL_POWER,
        &TENSOR_PARALLEL_ON_CPU,
        &BATCHED_TOKENS,
        &KV_CACHE_SIZE,
        &KV_CACHE_OF_EMBEDDING,
        &PREFIX_CACHING_OF_EMBEDDING,
    ]
    .into_iter()
}

const NAME: Rule = Rule {
    field: "metadata.name",
    cel: "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.metadata.name.size() <= 63",
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
    expected: "hf://org/name or hf://org/name@revision, with letters, digits, `.`, `_` and `-` in org and name, and a \
               branch, tag or commit behind the `@`",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("hf://")),
};

const MODEL_WEB: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('https://') || self.model.matches('^https://[A-Za-z0-9][A-Za-z0-9.:-]*/\
          [A-Za-z0-9._~%+@/-]+[.]gguf$')",
    expected: "https://host/path.gguf, the address of one GGUF file without a query",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("https://")),
};

const MODEL_CLAIM: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('pvc://') || (self.model.matches('^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?\
          (/([A-Za-z0-9._@+-][A-Za-z0-9._@+/-]*)?)?$') && !self.model.contains('/../') && !self.model.endsWith('/..'))",
    expected: "pvc://claim/path with the name of a PersistentVolumeClaim and a path without `..`",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("pvc://")),
};

const MODEL_FILE: Rule = Rule {
    field: "spec.model",
    cel: "!self.model.startsWith('file://') || (self.model.matches('^file:///.') && !self.model.contains('/../') \
          && !self.model.endsWith('/..'))",
    expected: "an absolute path without `..`: file:///absolute/path",
    find: |object, rule| model_problem(object, rule, |model| model.starts_with("file://")),
};

const SERVED_NAMES: Rule = Rule {
    field: "spec.servedNames",
    cel: "!has(self.servedNames) || self.servedNames.all(name, name.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*$'))",
    expected: "letters, digits, `.`, `_`, `:`, `/` and `-`, with a letter or digit first",
    find: |object, rule| {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._:/-".contains(c))
        };
        let names = at(object, rule.field)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let path = FieldPath::of(rule.field);
        let broken = names
            .iter()
            .enumerate()
            .filter(|(_, name)| name.as_str().is_some_and(|name| !is_name(name)));
        broken
            .map(|(index, name)| Problem::invalid(path.index(index), name, rule.expected))
            .collect()
    },
};

const TENSOR_PARALLEL_POWER: Rule = Rule {
    field: "spec.tensorParallel",
    cel: "!has(self.tensorParallel) || self.tensorParallel in [1, 2, 4, 8, 16, 32, 64]",
    expected: "a power of two",
    find: |object, rule| {
        let is_power = |devices: i64| devices > 0 && (devices & (devices - 1)) == 0;
        rule.broken_if(
            object,
            whole(object, rule.field).is_some_and(|devices| !is_power(devices)),
        )
    },
};

const TENSOR_PARALLEL_ON_CPU: Rule = Rule {
    field: "spec.tensorParallel",
    cel: "!has(self.tensorParallel) || self.tensorParallel == 1 || (has(self.device) && self.device != 'cpu')",
    expected: "1 on device cpu",
    find: |object, rule| {
        let is_cpu = text(object, "spec.device").is_none_or(|device| device == "cpu");
        rule.broken_if(
            object,
            is_cpu && whole(object, rule.field).is_some_and(|devices| devices != 1),
        )
    },
};

const BATCHED_TOKENS: Rule = Rule {
    field: "spec.engine.maxNumBatchedTokens",
    cel: "!has(self.engine) || !has(self.engine.maxNumBatchedTokens) || self.engine.maxNumBatchedTokens >= \
          (has(self.engine.maxNumSeqs) ? self.engine.maxNumSeqs : 32)",
    expected: "at least maxNumSeqs (32 without it), as each running sequence needs one token a step",
    find: |object, rule| {
        let max_num_seqs = whole(object, "spec.engine.maxNumSeqs").unwrap_or(32);
        rule.broken_if(
            object,
            whole(object, rule.field).is_some_and(|tokens| tokens < max_num_seqs),
        )
    },
};

const KV_CACHE_SIZE: Rule = Rule {
    field: "spec.engine.kvCacheMemory",
    cel: "!has(self.engine) || !has(self.engine.kvCacheMemory) || (string(self.engine.kvCacheMemory)\
          .matches('^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$') \
          && quantity(string(self.engine.kvCacheMemory)).compareTo(quantity('1Mi')) >= 0 \
          && quantity(string(self.engine.kvCacheMemory)).compareTo(quantity('16Ti')) <= 0)",
    expected: "a size from 1Mi to 16Ti, such as 512Mi or 8Gi",
    find: |object, rule| {
        let bytes = match at(object, rule.field) {
            None => return Vec::new(),
            Some(Value::String(text)) if text.ends_with('.') || text.contains(". ") => None,
            Some(Value::String(text)) => parse_bytes(text).ok(),
            Some(number) => number.as_u64(),
        };
        let is_size = bytes.is_some_and(|bytes| (1 << 20..=16 << 40).contains(&bytes));
        rule.broken_if(object, !is_size)
    },
};

const KV_CACHE_OF_EMBEDDING: Rule = Rule {
    field: "spec.engine.kvCacheMemory",
    cel: "!has(self.task) || self.task != 'embedding' || !has(self.engine) || !has(self.engine.kvCacheMemory)",
    expected: "no such field with task embedding, which has no KV cache",
    find: |object, rule| {
        rule.broken_if(
            object,
            text(object, "spec.task") == Some("embedding") && at(object, rule.field).is_some(),
        )
    },
};

const PREFIX_CACHING_OF_EMBEDDING: Rule = Rule {
    field: "spec.engine.prefixCaching",
    cel: "!has(self.task) || self.task != 'embedding' || !has(self.engine) || !has(self.engine.prefixCaching) \
          || !self.engine.prefixCaching",
    expected: "false or no such field with task embedding, which has no KV cache",
    find: |object, rule| {
        rule.broken_if(
            object,
            text(object, "spec.task") == Some("embedding")
                && at(object, rule.field) == Some(&Value::Bool(true)),
        )
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

fn at<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    field
        .split('.')
        .try_fold(object, |value, key| value.get(key))
        .filter(|value| !value.is_null())
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    at(object, field).and_then(Value::as_str)
}

fn whole(object: &Value, field: &str) -> Option<i64> {
    at(object, field).and_then(Value::as_i64)
}
