//! What may not change in an object that exists; only an API server knows both, so there is no form for files.

/// A rule over an object before (`oldSelf`, its spec) and after (`self`).
pub(crate) struct Change {
    /// Field that it speaks of, from the spec.
    pub(crate) field: &'static str,
    /// The rule.
    pub(crate) cel: &'static str,
    /// What the API server says when it is broken.
    pub(crate) message: &'static str,
}

/// Every such rule.
pub(crate) const CHANGES: &[Change] = &[
    Change {
        field: ".task",
        cel: "!has(oldSelf.task) || !has(self.task) || self.task == oldSelf.task",
        message: "cannot be changed, as clients would get answers of another kind: create a second model instead",
    },
    Change {
        field: ".cache.storageClassName",
        cel: "!has(oldSelf.cache) || !has(self.cache) || (has(self.cache.storageClassName) ? \
              self.cache.storageClassName : '') == (has(oldSelf.cache.storageClassName) ? \
              oldSelf.cache.storageClassName : '')",
        message: "cannot be changed, as a volume keeps its class: delete the model and create it again",
    },
    Change {
        field: ".cache.accessMode",
        cel: "!has(oldSelf.cache) || !has(self.cache) || (has(self.cache.accessMode) ? self.cache.accessMode : \
              'ReadWriteOnce') == (has(oldSelf.cache.accessMode) ? oldSelf.cache.accessMode : 'ReadWriteOnce')",
        message: "cannot be changed, as a volume keeps its mode: delete the model and create it again",
    },
    Change {
        field: ".cache.size",
        cel: "!has(oldSelf.cache) || !has(self.cache) || !isQuantity(string(self.cache.size)) \
              || !isQuantity(string(oldSelf.cache.size)) || quantity(string(self.cache.size))\
              .compareTo(quantity(string(oldSelf.cache.size))) >= 0",
        message: "cannot shrink, as a volume only grows: delete the model and create it again",
    },
];
