//! Rules on requests and limits of the engine's container.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Rule, at};
use crate::names;

pub(super) const LIMITS: Rule = Rule {
    field: "spec.podTemplate.resources.limits",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.resources) || !has(self.podTemplate.resources.limits) \
          || self.podTemplate.resources.limits.all(key, string(self.podTemplate.resources.limits[key])\
          .matches('^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$'))",
    shown: "'the amount of ' + self.podTemplate.resources.limits.filter(key, \
            !string(self.podTemplate.resources.limits[key])\
            .matches('^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$'))[0]",
    expected: AMOUNT,
    find: |object, rule| rule.broken_entries(object, |_, value| amount(value).is_some()),
};

pub(super) const REQUESTS: Rule = Rule {
    field: "spec.podTemplate.resources.requests",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.resources) || !has(self.podTemplate.resources.requests) \
          || self.podTemplate.resources.requests.all(key, string(self.podTemplate.resources.requests[key])\
          .matches('^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$'))",
    shown: "'the amount of ' + self.podTemplate.resources.requests.filter(key, \
            !string(self.podTemplate.resources.requests[key])\
            .matches('^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$'))[0]",
    expected: AMOUNT,
    find: |object, rule| rule.broken_entries(object, |_, value| amount(value).is_some()),
};

pub(super) const LIMITS_OF_FERRUM: Rule = Rule {
    field: "spec.podTemplate.resources.limits",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.resources) || !has(self.podTemplate.resources.limits) \
          || !('nvidia.com/gpu' in self.podTemplate.resources.limits)",
    shown: "'nvidia.com/gpu'",
    expected: NO_GPU,
    find: |object, rule| rule.broken_entries(object, |key, _| key != names::RESOURCE_NVIDIA_GPU),
};

pub(super) const REQUESTS_OF_FERRUM: Rule = Rule {
    field: "spec.podTemplate.resources.requests",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.resources) || !has(self.podTemplate.resources.requests) \
          || !('nvidia.com/gpu' in self.podTemplate.resources.requests)",
    shown: "'nvidia.com/gpu'",
    expected: NO_GPU,
    find: |object, rule| rule.broken_entries(object, |key, _| key != names::RESOURCE_NVIDIA_GPU),
};

pub(super) const REQUESTS_WITHIN_LIMITS: Rule = Rule {
    field: "spec.podTemplate.resources.requests",
    cel: "!has(self.podTemplate) || !has(self.podTemplate.resources) || !has(self.podTemplate.resources.requests) \
          || !has(self.podTemplate.resources.limits) || self.podTemplate.resources.requests.all(key, \
          !(key in self.podTemplate.resources.limits) \
          || !isQuantity(string(self.podTemplate.resources.requests[key])) \
          || !isQuantity(string(self.podTemplate.resources.limits[key])) \
          || quantity(string(self.podTemplate.resources.requests[key]))\
          .compareTo(quantity(string(self.podTemplate.resources.limits[key]))) <= 0)",
    shown: "",
    expected: "of each resource at most its limit",
    find: |object, rule| {
        let limits = at(object, "spec.podTemplate.resources.limits");
        let limit = |key: &str| limits.and_then(|limits| limits.get(key));
        rule.broken_entries(object, |key, value| {
            let order = amount(value).zip(limit(key).and_then(amount));
            order.is_none_or(|(request, limit)| request.cmp(&limit) != Ordering::Greater)
        })
    },
};

const AMOUNT: &str = "an amount such as 500m, 2 or 8Gi";
const NO_GPU: &str = "no such entry: tensorParallel with device cuda asks for GPUs";

/// An amount as Kubernetes writes it, in billionths.
fn amount(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        number => number.as_u64()?.to_string(),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number =
        (1..=15).contains(&whole.len()) && (1..=9).contains(&fraction.len()) && !fraction.contains('.');
    if !is_number {
        return None;
    }
    let billionths: i128 = format!("{whole}{fraction:0<9}").parse().ok()?;
    Some(match unit {
        "m" => billionths / 1000,
        "" => billionths,
        _ => {
            let (base, exponent) = match unit.strip_suffix('i') {
                Some(prefix) => (1024, "KMGTPE".find(prefix)),
                None => (1000, "kMGTPE".find(unit)),
            };
            let exponent = exponent.filter(|_| unit.trim_end_matches('i').len() == 1)?;
            billionths.checked_mul(i128::pow(base, u32::try_from(exponent).ok()? + 1))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("2", Some(2_000_000_000)),
            ("500m", Some(500_000_000)),
            ("1.5k", Some(1_500_000_000_000)),
            ("1Ki", Some(1_024_000_000_000)),
            ("1Ei", Some((1_i128 << 60) * 1_000_000_000)),
            ("1K", None),
            ("1ki", None),
            ("1KM", None),
            ("1i", None),
            ("-1", None),
            ("1.", None),
            (".5", None),
            ("1.2.3", None),
            ("lots", None),
            ("", None),
        ] {
            assert_eq!(amount(&text.into()), expected, "{text}");
        }
        assert_eq!(amount(&3.into()), Some(3_000_000_000));
        assert_eq!(amount(&(-3).into()), None);
    }
}
