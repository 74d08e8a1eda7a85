//! Rules on devices and settings of engines.

use serde_json::Value;

use super::{Rule, at, is_size, text, whole};

pub(super) const RULES: &[Rule] = &[
    TENSOR_PARALLEL_POWER,
    TENSOR_PARALLEL_ON_CPU,
    BATCHED_TOKENS,
    KV_CACHE_SIZE,
    KV_CACHE_OF_EMBEDDING,
    OUTPUT_LAYER_OF_EMBEDDING,
    PREFIX_CACHING_OF_EMBEDDING,
];

const BATCHED_TOKENS: Rule = Rule {
    field: "spec.engine.maxNumBatchedTokens",
    cel: "!has(self.engine) || !has(self.engine.maxNumBatchedTokens) || self.engine.maxNumBatchedTokens >= \
          (has(self.engine.maxNumSeqs) ? self.engine.maxNumSeqs : 32)",
    shown: "",
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
    shown: "string(self.engine.kvCacheMemory)",
    expected: "a size from 1Mi to 16Ti, such as 512Mi or 8Gi",
    find: |object, rule| rule.broken_if(object, !is_size(object, rule.field)),
};

const KV_CACHE_OF_EMBEDDING: Rule = Rule {
    field: "spec.engine.kvCacheMemory",
    cel: "!has(self.task) || self.task != 'embedding' || !has(self.engine) || !has(self.engine.kvCacheMemory)",
    shown: "string(self.engine.kvCacheMemory)",
    expected: "no such field with task embedding, which has no KV cache",
    find: |object, rule| {
        rule.broken_if(
            object,
            text(object, "spec.task") == Some("embedding") && at(object, rule.field).is_some(),
        )
    },
};

const OUTPUT_LAYER_OF_EMBEDDING: Rule = Rule {
    field: "spec.engine.outputLayer",
    cel: "!has(self.task) || self.task != 'embedding' || !has(self.engine) || !has(self.engine.outputLayer) \
          || self.engine.outputLayer == 'auto'",
    shown: "self.engine.outputLayer",
    expected: "auto or no such field with task embedding, which has no output layer",
    find: |object, rule| {
        rule.broken_if(
            object,
            text(object, "spec.task") == Some("embedding")
                && text(object, rule.field).is_some_and(|format| format != "auto"),
        )
    },
};

const PREFIX_CACHING_OF_EMBEDDING: Rule = Rule {
    field: "spec.engine.prefixCaching",
    cel: "!has(self.task) || self.task != 'embedding' || !has(self.engine) || !has(self.engine.prefixCaching) \
          || !self.engine.prefixCaching",
    shown: "",
    expected: "false or no such field with task embedding, which has no KV cache",
    find: |object, rule| {
        rule.broken_if(
            object,
            text(object, "spec.task") == Some("embedding")
                && at(object, rule.field) == Some(&Value::Bool(true)),
        )
    },
};

const TENSOR_PARALLEL_POWER: Rule = Rule {
    field: "spec.tensorParallel",
    cel: "!has(self.tensorParallel) || self.tensorParallel in [1, 2, 4, 8, 16, 32, 64]",
    shown: "",
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
    shown: "",
    expected: "1 on device cpu",
    find: |object, rule| {
        let is_cpu = text(object, "spec.device").is_none_or(|device| device == "cpu");
        rule.broken_if(
            object,
            is_cpu && whole(object, rule.field).is_some_and(|devices| devices != 1),
        )
    },
};
