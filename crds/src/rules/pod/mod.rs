//! Rules on what a model adds to its engine pods. What they leave open, the API server says when the pods are made.

mod env;
mod resources;
mod scheduling;

use serde_json::Value;

use super::{Rule, SUBDOMAIN, at, is_subdomain};
use crate::names;

pub(super) const RULES: &[Rule] = &[
    LABEL_KEYS,
    LABEL_VALUES,
    LABELS_OF_FERRUM,
    ANNOTATION_KEYS,
    ANNOTATIONS_OF_FERRUM,
    scheduling::NODE_SELECTOR_KEYS,
    scheduling::NODE_SELECTOR_VALUES,
    scheduling::TOLERATION_KEY,
    scheduling::TOLERATION_VALUE,
    scheduling::TOLERATION_SECONDS,
    scheduling::RUNTIME_CLASS,
    scheduling::PRIORITY_CLASS,
    resources::LIMITS,
    resources::REQUESTS,
    resources::LIMITS_OF_FERRUM,
    resources::REQUESTS_OF_FERRUM,
    resources::REQUESTS_WITHIN_LIMITS,
    env::NAME,
    env::OF_FERRUM,
    env::VALUE_OR_SOURCE,
    env::ONE_SOURCE,
];

const LABEL_KEYS: Rule = Rule {
    field: "spec.podTemplate.labels",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.labels) || self.podTemplate.labels.all(key, key.matches(\
          '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))",
    shown: "'\"' + self.podTemplate.labels.filter(key, !key.matches(\
            '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))[0] + '\"'",
    expected: LABEL_KEY,
    find: |object, rule| rule.broken_entries(object, |key, _| is_label_key(key)),
};

const LABEL_VALUES: Rule = Rule {
    field: "spec.podTemplate.labels",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.labels) || self.podTemplate.labels.all(key, \
          self.podTemplate.labels[key].matches('^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$'))",
    shown: "'the value of ' + self.podTemplate.labels.filter(key, !self.podTemplate.labels[key].matches(\
            '^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$'))[0]",
    expected: LABEL_VALUE,
    find: |object, rule| rule.broken_entries(object, |_, value| is_label_value(value)),
};

const LABELS_OF_FERRUM: Rule = Rule {
    field: "spec.podTemplate.labels",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.labels) || self.podTemplate.labels.all(key, \
          !key.startsWith('ferrum.dev/') && !(key in ['app.kubernetes.io/name', 'app.kubernetes.io/component', \
          'app.kubernetes.io/managed-by']))",
    shown: "'\"' + self.podTemplate.labels.filter(key, key.startsWith('ferrum.dev/') || key in \
            ['app.kubernetes.io/name', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by'])[0] + '\"'",
    expected: "none of ferrum's own labels (ferrum.dev/..., app.kubernetes.io/name, component and managed-by)",
    find: |object, rule| {
        let is_own = |key: &str| key.starts_with(names::PREFIX) || names::OWN_LABELS.contains(&key);
        rule.broken_entries(object, |key, _| !is_own(key))
    },
};

const ANNOTATION_KEYS: Rule = Rule {
    field: "spec.podTemplate.annotations",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.annotations) || self.podTemplate.annotations.all(key, \
          key.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))",
    shown: "'\"' + self.podTemplate.annotations.filter(key, !key.matches(\
            '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))[0] + '\"'",
    expected: LABEL_KEY,
    find: |object, rule| rule.broken_entries(object, |key, _| is_label_key(key)),
};

const ANNOTATIONS_OF_FERRUM: Rule = Rule {
    field: "spec.podTemplate.annotations",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.annotations) || self.podTemplate.annotations.all(key, \
          !key.startsWith('ferrum.dev/') && key != 'controller.kubernetes.io/pod-deletion-cost')",
    shown: "'\"' + self.podTemplate.annotations.filter(key, key.startsWith('ferrum.dev/') || key == \
            'controller.kubernetes.io/pod-deletion-cost')[0] + '\"'",
    expected: "none of ferrum's own annotations (ferrum.dev/..., controller.kubernetes.io/pod-deletion-cost)",
    find: |object, rule| {
        let is_own = |key: &str| key.starts_with(names::PREFIX) || key == names::ANNOTATION_POD_DELETION_COST;
        rule.broken_entries(object, |key, _| !is_own(key))
    },
};

const LABEL_KEY: &str = "name or example.com/name, with letters, digits, `-`, `_` and `.` in name";
const LABEL_VALUE: &str =
    "letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, or nothing";

/// Like `name` or `example.com/name`.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
        None => is_word(key),
    }
}

fn is_label_value(value: &Value) -> bool {
    value.as_str().is_none_or(|text| text.is_empty() || is_word(text))
}

/// `[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?`.
fn is_word(text: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(is_edge)
        && text.ends_with(is_edge)
        && text.chars().all(|c| is_edge(c) || "_.-".contains(c))
}
