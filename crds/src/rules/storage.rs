//! Rules on the cache and the hub's token.

use super::{Rule, SUBDOMAIN, at, is_size, is_subdomain, text};

pub(super) const RULES: &[Rule] = &[
    CACHE_OF_SOURCE,
    CACHE_SIZE,
    STORAGE_CLASS,
    TOKEN_OF_SOURCE,
    TOKEN_SECRET,
    TOKEN_KEY,
];

const CACHE_OF_SOURCE: Rule = Rule {
    field: "spec.cache",
    cel: "!has(self.cache) || !(self.model.startsWith('pvc://') || self.model.startsWith('file://'))",
    shown: "",
    expected: "no such field with a pvc:// or file:// model, which is read where it is",
    find: |object, rule| {
        let is_in_place = text(object, "spec.model")
            .is_some_and(|model| model.starts_with("pvc://") || model.starts_with("file://"));
        rule.broken_if(object, is_in_place && at(object, rule.field).is_some())
    },
};

const CACHE_SIZE: Rule = Rule {
    field: "spec.cache.size",
    cel: "!has(self.cache) || (string(self.cache.size).matches('^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$') \
          && quantity(string(self.cache.size)).compareTo(quantity('1Mi')) >= 0 \
          && quantity(string(self.cache.size)).compareTo(quantity('16Ti')) <= 0)",
    shown: "string(self.cache.size)",
    expected: "a size from 1Mi to 16Ti, such as 20Gi",
    find: |object, rule| rule.broken_if(object, !is_size(object, rule.field)),
};

const STORAGE_CLASS: Rule = Rule {
    field: "spec.cache.storageClassName",
    cel: "!has(self.cache) || !has(self.cache.storageClassName) \
          || self.cache.storageClassName.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    shown: "'\"' + self.cache.storageClassName + '\"'",
    expected: SUBDOMAIN,
    find: |object, rule| rule.broken_unless(object, is_subdomain),
};

const TOKEN_OF_SOURCE: Rule = Rule {
    field: "spec.hfTokenSecretRef",
    cel: "!has(self.hfTokenSecretRef) || self.model.startsWith('hf://')",
    shown: "",
    expected: "no such field without an hf:// model, as the token is for the model hub only",
    find: |object, rule| {
        let is_hub = text(object, "spec.model").is_none_or(|model| model.starts_with("hf://"));
        rule.broken_if(object, !is_hub && at(object, rule.field).is_some())
    },
};

const TOKEN_SECRET: Rule = Rule {
    field: "spec.hfTokenSecretRef.name",
    cel: "!has(self.hfTokenSecretRef) || self.hfTokenSecretRef.name.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    shown: "'\"' + self.hfTokenSecretRef.name + '\"'",
    expected: SUBDOMAIN,
    find: |object, rule| rule.broken_unless(object, is_subdomain),
};

const TOKEN_KEY: Rule = Rule {
    field: "spec.hfTokenSecretRef.key",
    cel: "!has(self.hfTokenSecretRef) || self.hfTokenSecretRef.key.matches('^[A-Za-z0-9._-]+$')",
    shown: "'\"' + self.hfTokenSecretRef.key + '\"'",
    expected: "letters, digits, `.`, `_` and `-`",
    find: |object, rule| {
        let is_key = |key: &str| {
            let is_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !key.is_empty() && key.chars().all(is_char)
        };
        rule.broken_unless(object, is_key)
    },
};
