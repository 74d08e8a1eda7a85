//! What a schema cannot say: each rule once for the API server (CEL) and once for us, side by side.
//!
//! A test evaluates both forms on the same objects; they must agree.

mod change;
mod engine;
mod model;
mod pod;
mod scaling;
mod storage;

use serde_json::Value;

pub(crate) use self::change::{CHANGES, Change};
use crate::{FieldPath, Problem};

/// A rule over a whole object.
pub(crate) struct Rule {
    /// Field that it speaks of, from the root.
    pub(crate) field: &'static str,
    /// The rule for the API server; `self` is the object or its spec, by the list that the rule is in.
    pub(crate) cel: &'static str,
    /// The value that breaks it, as a text that the API server makes of `self`; empty where it helps nobody, and for
    /// numbers: an API server takes `string(number)` to be without bound, so beyond the budget of a rule.
    pub(crate) shown: &'static str,
    /// What is allowed.
    pub(crate) expected: &'static str,
    /// The same rule for us: every value that breaks it. A field that is absent or of a wrong type breaks nothing
    /// here, as the shape was checked before.
    pub(crate) find: fn(&Value, &Self) -> Vec<Problem>,
}

impl Rule {
    /// What the API server says when it is broken and [`Self::message_expression`] cannot be used.
    pub(crate) fn message(&self) -> String {
        format!("expected {}", self.expected)
    }

    /// What the API server says when it is broken, value included.
    pub(crate) fn message_expression(&self) -> Option<String> {
        let expected = self.expected.replace('\'', "\\'");
        let told = format!("{} + ' is not allowed: expected {expected}'", self.shown);
        (!self.shown.is_empty()).then_some(told)
    }

    /// Field relative to the spec; metadata's fields are not part of a CRD's schema and cannot be named.
    pub(crate) fn cel_field_path(&self) -> Option<&'static str> {
        self.field.strip_prefix("spec")
    }

    /// The field's own value breaks it.
    fn broken(&self, object: &Value) -> Vec<Problem> {
        let value = at(object, self.field).unwrap_or(&Value::Null);
        vec![self.problem(FieldPath::of(self.field), value)]
    }

    fn broken_if(&self, object: &Value, is_broken: bool) -> Vec<Problem> {
        if is_broken {
            self.broken(object)
        } else {
            Vec::new()
        }
    }

    /// The field is a text, and one that is not allowed.
    fn broken_unless(&self, object: &Value, is_allowed: fn(&str) -> bool) -> Vec<Problem> {
        self.broken_if(
            object,
            text(object, self.field).is_some_and(|text| !is_allowed(text)),
        )
    }

    /// Every entry of the field, a list, that is not allowed.
    fn broken_items(&self, object: &Value, is_allowed: impl Fn(&Value) -> bool) -> Vec<Problem> {
        let items = at(object, self.field).and_then(Value::as_array);
        let broken = items
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, item)| !is_allowed(item));
        broken
            .map(|(index, item)| self.problem(FieldPath::of(self.field).index(index), item))
            .collect()
    }

    /// Every entry of the field, a mapping, that is not allowed.
    fn broken_entries(&self, object: &Value, is_allowed: impl Fn(&str, &Value) -> bool) -> Vec<Problem> {
        let entries = at(object, self.field).and_then(Value::as_object);
        let broken = entries
            .into_iter()
            .flatten()
            .filter(|(key, value)| !is_allowed(key, value));
        broken
            .map(|(key, value)| self.problem(FieldPath::of(self.field).key(key), value))
            .collect()
    }

    fn problem(&self, path: FieldPath, value: &Value) -> Problem {
        Problem::invalid(path, value, self.expected)
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
    [&model::NAME].into_iter()
}

/// Rules whose `self` is the spec.
pub(crate) fn spec_rules() -> impl Iterator<Item = &'static Rule> {
    [
        model::RULES,
        engine::RULES,
        scaling::RULES,
        storage::RULES,
        pod::RULES,
    ]
    .into_iter()
    .flatten()
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

/// What names of Kubernetes objects are made of, in words.
const SUBDOMAIN: &str = "lower-case letters, digits, `-` and `.`, with a letter or digit at both ends";

/// `[a-z0-9]([a-z0-9.-]*[a-z0-9])?`.
fn is_subdomain(text: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_edge)
        && text.ends_with(is_edge)
        && text.chars().all(|c| is_edge(c) || c == '.' || c == '-')
}

/// A size of the field, from 1Mi to 16Ti; nothing where there is no field.
fn is_size(object: &Value, field: &str) -> bool {
    let bytes = match at(object, field) {
        None => return true,
        Some(Value::String(text)) if text.ends_with('.') || text.contains(". ") => None,
        Some(Value::String(text)) => ferrum_engine::parse_bytes(text).ok(),
        Some(number) => number.as_u64(),
    };
    bytes.is_some_and(|bytes| (1 << 20..=16 << 40).contains(&bytes))
}
