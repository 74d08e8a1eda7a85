//! Rules on where engine pods may run.

use serde_json::Value;

use super::{LABEL_KEY, LABEL_VALUE, Rule, SUBDOMAIN, is_label_key, is_label_value, is_subdomain};

pub(super) const NODE_SELECTOR_KEYS: Rule = Rule {
    field: "spec.podTemplate.nodeSelector",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.nodeSelector) || self.podTemplate.nodeSelector.all(key, \
          key.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))",
    shown: "'\"' + self.podTemplate.nodeSelector.filter(key, !key.matches(\
            '^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))[0] + '\"'",
    expected: LABEL_KEY,
    find: |object, rule| rule.broken_entries(object, |key, _| is_label_key(key)),
};

pub(super) const NODE_SELECTOR_VALUES: Rule = Rule {
    field: "spec.podTemplate.nodeSelector",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.nodeSelector) || self.podTemplate.nodeSelector.all(key, \
          self.podTemplate.nodeSelector[key].matches('^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$'))",
    shown: "'the value of ' + self.podTemplate.nodeSelector.filter(key, !self.podTemplate.nodeSelector[key].matches(\
            '^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$'))[0]",
    expected: LABEL_VALUE,
    find: |object, rule| rule.broken_entries(object, |_, value| is_label_value(value)),
};

pub(super) const TOLERATION_KEY: Rule = Rule {
    field: "spec.podTemplate.tolerations",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.tolerations) || self.podTemplate.tolerations.all(taint, \
          has(taint.key) || (has(taint.operator) && taint.operator == 'Exists'))",
    shown: "",
    expected: "a key, or operator Exists for every taint",
    find: |object, rule| {
        rule.broken_items(object, |taint| {
            taint.get("key").is_some() || taint["operator"] == "Exists"
        })
    },
};

pub(super) const TOLERATION_VALUE: Rule = Rule {
    field: "spec.podTemplate.tolerations",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.tolerations) || self.podTemplate.tolerations.all(taint, \
          !has(taint.value) || taint.value == '' || !has(taint.operator) || taint.operator != 'Exists')",
    shown: "",
    expected: "no value with operator Exists",
    find: |object, rule| {
        let has_value = |taint: &Value| taint["value"].as_str().is_some_and(|value| !value.is_empty());
        rule.broken_items(object, |taint| !has_value(taint) || taint["operator"] != "Exists")
    },
};

pub(super) const TOLERATION_SECONDS: Rule = Rule {
    field: "spec.podTemplate.tolerations",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.tolerations) || self.podTemplate.tolerations.all(taint, \
          !has(taint.tolerationSeconds) || (has(taint.effect) && taint.effect == 'NoExecute'))",
    shown: "",
    expected: "tolerationSeconds with effect NoExecute only",
    find: |object, rule| {
        rule.broken_items(object, |taint| {
            taint.get("tolerationSeconds").is_none() || taint["effect"] == "NoExecute"
        })
    },
};

pub(super) const RUNTIME_CLASS: Rule = Rule {
    field: "spec.podTemplate.runtimeClassName",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.runtimeClassName) \
          || self.podTemplate.runtimeClassName.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    shown: "'\"' + self.podTemplate.runtimeClassName + '\"'",
    expected: SUBDOMAIN,
    find: |object, rule| rule.broken_unless(object, is_subdomain),
};

pub(super) const PRIORITY_CLASS: Rule = Rule {
    field: "spec.podTemplate.priorityClassName",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.priorityClassName) \
          || self.podTemplate.priorityClassName.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    shown: "'\"' + self.podTemplate.priorityClassName + '\"'",
    expected: SUBDOMAIN,
    find: |object, rule| rule.broken_unless(object, is_subdomain),
};
