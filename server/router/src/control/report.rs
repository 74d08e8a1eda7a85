//! What a watcher of the demand is told, and what it knows already.

use std::collections::HashMap;

use ferrum_api::demand::{DemandReport, ModelDemand, ModelKey, ReplicaDemand};

use crate::fleet::{Model, Replica, Table};

/// The reports to one watcher.
#[derive(Debug, Default)]
pub(super) struct Reports {
    sequence: u64,
    told: HashMap<String, ModelDemand>,
}

impl Reports {
    /// What is new since the last one. The first one is made also of nothing; a later one only if it `is_due`.
    pub(super) fn next(&mut self, table: &Table, is_due: bool) -> Option<DemandReport> {
        let mut changed = Vec::new();
        let mut told = HashMap::with_capacity(table.models.len());
        for model in &table.models {
            let demand = model_demand(model);
            let before = self.told.remove(&model.name);
            if before.as_ref() != Some(&demand) {
                changed.push(demand.clone());
            }
            told.insert(model.name.clone(), demand);
        }
        let gone: Vec<_> = self.told.drain().filter_map(|(_, demand)| demand.key).collect();
        self.told = told;
        if changed.is_empty() && gone.is_empty() && self.sequence > 0 && !is_due {
            return None;
        }
        self.sequence += 1;
        Some(DemandReport {
            sequence: self.sequence,
            models: changed,
            gone,
        })
    }
}

fn model_demand(model: &Model) -> ModelDemand {
    let shared = &model.shared;
    ModelDemand {
        key: Some(model_key(&model.name)),
        held_requests: shared.queue.len() as u64,
        held_tokens: shared.queue.tokens(),
        running_requests: shared.running.requests(),
        running_tokens: shared.running.tokens(),
        requests_total: shared.queue.arrived(),
        replicas: model
            .replicas
            .iter()
            .map(|replica| replica_demand(replica))
            .collect(),
    }
}

fn replica_demand(replica: &Replica) -> ReplicaDemand {
    ReplicaDemand {
        pod: pod_name(&replica.id).to_owned(),
        running_requests: replica.requests_in_flight(),
        running_tokens: replica.tokens_in_flight(),
        ready: replica.is_ready(),
    }
}

/// `namespace/name` of a cluster; the models of a file have no namespace.
fn model_key(name: &str) -> ModelKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ModelKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// `namespace/pod/uid` of a cluster, else any id.
fn pod_name(id: &str) -> &str {
    id.split('/').nth(1).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_cluster_are_taken_apart_and_others_left_whole() {
        assert_eq!(pod_name("apps/m-1/uid"), "m-1");
        assert_eq!(pod_name("m-0"), "m-0");
        let key = model_key("apps/m");
        assert_eq!((key.namespace.as_str(), key.name.as_str()), ("apps", "m"));
        let key = model_key("m");
        assert_eq!((key.namespace.as_str(), key.name.as_str()), ("", "m"));
    }

    #[test]
    fn the_first_report_comes_also_without_models_and_the_next_only_when_due() {
        let (mut reports, table) = (Reports::default(), Table::default());
        assert_eq!(reports.next(&table, false).map(|report| report.sequence), Some(1));
        assert_eq!(reports.next(&table, false), None);
        assert_eq!(reports.next(&table, true).map(|report| report.sequence), Some(2));
    }
}
