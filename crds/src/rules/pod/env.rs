//! Rules on the environment of the engine's container.

use serde_json::Value;

use super::Rule;

pub(super) const NAME: Rule = Rule {
    field: "spec.podTemplate.env",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.env) || self.podTemplate.env.all(variable, \
          variable.name.matches('^[A-Za-z_.-][A-Za-z0-9_.-]*$'))",
    shown: "'\"' + self.podTemplate.env.map(variable, variable.name)\
            .filter(name, !name.matches('^[A-Za-z_.-][A-Za-z0-9_.-]*$'))[0] + '\"'",
    expected: "a name of letters, digits, `_`, `-` and `.`, without a digit first",
    find: |object, rule| {
        let is_name = |name: &str| {
            let is_first = |c: char| c.is_ascii_alphabetic() || "_.-".contains(c);
            name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
        };
        rule.broken_items(object, |variable| variable["name"].as_str().is_none_or(is_name))
    },
};

pub(super) const OF_FERRUM: Rule = Rule {
    field: "spec.podTemplate.env",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.env) || self.podTemplate.env.all(variable, \
          !(variable.name in ['HF_HOME', 'HF_HUB_CACHE', 'HF_TOKEN']))",
    shown: "'\"' + ['HF_HOME', 'HF_HUB_CACHE', 'HF_TOKEN'].filter(name, self.podTemplate.env.exists(variable, \
            variable.name == name))[0] + '\"'",
    expected: "none of HF_HOME, HF_HUB_CACHE and HF_TOKEN, which ferrum sets: use cache and hfTokenSecretRef",
    find: |object, rule| {
        let is_own = |name: &str| ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN"].contains(&name);
        rule.broken_items(object, |variable| !variable["name"].as_str().is_some_and(is_own))
    },
};

pub(super) const VALUE_OR_SOURCE: Rule = Rule {
    field: "spec.podTemplate.env",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.env) || self.podTemplate.env.all(variable, \
          !has(variable.value) || variable.value == '' || !has(variable.valueFrom))",
    shown: "",
    expected: "value or valueFrom, not both",
    find: |object, rule| {
        let has_value = |variable: &Value| variable["value"].as_str().is_some_and(|value| !value.is_empty());
        rule.broken_items(object, |variable| {
            !has_value(variable) || variable.get("valueFrom").is_none()
        })
    },
};

pub(super) const ONE_SOURCE: Rule = Rule {
    field: "spec.podTemplate.env",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.env) || self.podTemplate.env.all(variable, \
          !has(variable.valueFrom) || (has(variable.valueFrom.configMapKeyRef) ? 1 : 0) \
          + (has(variable.valueFrom.fieldRef) ? 1 : 0) + (has(variable.valueFrom.resourceFieldRef) ? 1 : 0) \
          + (has(variable.valueFrom.secretKeyRef) ? 1 : 0) == 1)",
    shown: "",
    expected: "one of configMapKeyRef, fieldRef, resourceFieldRef and secretKeyRef in valueFrom",
    find: |object, rule| {
        rule.broken_items(object, |variable| {
            variable["valueFrom"]
                .as_object()
                .is_none_or(|source| source.len() == 1)
        })
    },
};
