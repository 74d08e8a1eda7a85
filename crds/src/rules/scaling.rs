//! Rules on the number of replicas.

use super::{Rule, at, whole};

pub(super) const RULES: &[Rule] = &[REPLICAS_OR_AUTOSCALING, FEWEST_AND_MOST];

const REPLICAS_OR_AUTOSCALING: Rule = Rule {
    field: "spec.replicas",
    cel: "!has(self.replicas) || !has(self.autoscaling)",
    shown: "",
    expected: "no such field beside autoscaling, which decides the number of replicas: remove one of the two",
    find: |object, rule| {
        rule.broken_if(
            object,
            at(object, rule.field).is_some() && at(object, "spec.autoscaling").is_some(),
        )
    },
};

const FEWEST_AND_MOST: Rule = Rule {
    field: "spec.autoscaling.minReplicas",
    cel: "!has(self.autoscaling) || !has(self.autoscaling.minReplicas) \
          || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas",
    shown: "",
    expected: "at most maxReplicas",
    find: |object, rule| {
        let is_more = whole(object, rule.field)
            .zip(whole(object, "spec.autoscaling.maxReplicas"))
            .is_some_and(|(fewest, most)| fewest > most);
        rule.broken_if(object, is_more)
    },
};
