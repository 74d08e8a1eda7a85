//! What the routers said last, and what follows for one model.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ferrum_api::demand::{DemandReport, ModelDemand};

use super::decide::Load;

/// A router says something at least every 5 seconds; one that is silent for so long is not counted any more.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(12);

/// A model: namespace and name.
pub(crate) type ModelKey = (String, String);

/// The last word of each router.
#[derive(Default)]
pub(crate) struct Reports {
    routers: Mutex<HashMap<String, RouterReport>>,
}

struct RouterReport {
    heard: Instant,
    models: HashMap<ModelKey, ModelDemand>,
}

/// The demand for one model, over all routers that can be heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Sums.
    pub(crate) load: Load,
    /// Requests that run on each pod.
    pub(crate) running: BTreeMap<String, u64>,
}

impl Reports {
    /// Takes over a message; tells which models it is about.
    pub(crate) fn hear(&self, router: &str, report: DemandReport, now: Instant) -> HashSet<ModelKey> {
        let mut routers = self.lock();
        let known = routers.entry(router.to_owned()).or_insert_with(|| RouterReport {
            heard: now,
            models: HashMap::new(),
        });
        known.heard = now;
        let mut changed = HashSet::new();
        if report.sequence == 1 {
            changed.extend(known.models.drain().map(|(key, _)| key));
        }
        for gone in report.gone {
            let key = (gone.namespace, gone.name);
            known.models.remove(&key);
            changed.insert(key);
        }
        for model in report.models {
            let Some(key) = model.key.clone() else { continue };
            let key = (key.namespace, key.name);
            known.models.insert(key.clone(), model);
            changed.insert(key);
        }
        changed
    }

    /// Forgets a router; tells which models it spoke of.
    pub(crate) fn forget(&self, router: &str) -> HashSet<ModelKey> {
        let gone = self.lock().remove(router);
        gone.into_iter()
            .flat_map(|report| report.models.into_keys())
            .collect()
    }

    /// What waits and runs; `None` while no router can be heard.
    pub(crate) fn demand(&self, model: &ModelKey, now: Instant) -> Option<Demand> {
        let routers = self.lock();
        let mut heard = routers
            .values()
            .filter(|report| now.saturating_duration_since(report.heard) < FORGET_AFTER)
            .peekable();
        heard.peek()?;
        let mut sum = Demand::default();
        for model in heard.filter_map(|report| report.models.get(model)) {
            let load = &mut sum.load;
            load.held_requests = load.held_requests.saturating_add(model.held_requests);
            load.held_tokens = load.held_tokens.saturating_add(model.held_tokens);
            load.running_requests = load.running_requests.saturating_add(model.running_requests);
            load.running_tokens = load.running_tokens.saturating_add(model.running_tokens);
            load.requests_total = load.requests_total.saturating_add(model.requests_total);
            for replica in &model.replicas {
                *sum.running.entry(replica.pod.clone()).or_default() += replica.running_requests;
            }
        }
        Some(sum)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, RouterReport>> {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ferrum_api::demand::{ModelKey as WireKey, ReplicaDemand};

    use super::*;

    fn report(sequence: u64, held: u64) -> DemandReport {
        let key = WireKey {
            namespace: "n".to_owned(),
            name: "m".to_owned(),
        };
        let replicas = vec![ReplicaDemand {
            pod: "p".to_owned(),
            running_requests: 2,
            ..Default::default()
        }];
        let model = ModelDemand {
            key: Some(key),
            held_requests: held,
            replicas,
            ..Default::default()
        };
        DemandReport {
            sequence,
            models: vec![model],
            gone: Vec::new(),
        }
    }

    fn key() -> ModelKey {
        ("n".to_owned(), "m".to_owned())
    }

    #[test]
    fn routers_add_up_and_a_silent_one_is_dropped() {
        let (reports, now) = (Reports::default(), Instant::now());
        assert_eq!(reports.demand(&key(), now), None);
        assert_eq!(reports.hear("a", report(1, 3), now), HashSet::from([key()]));
        let later = now + FORGET_AFTER / 2;
        reports.hear("b", report(1, 4), later);
        let sum = reports.demand(&key(), later).expect("heard");
        assert_eq!((sum.load.held_requests, sum.running["p"]), (7, 4));
        let sum = reports.demand(&key(), now + FORGET_AFTER).expect("b is heard");
        assert_eq!(sum.load.held_requests, 4);
        assert_eq!(reports.demand(&key(), later + FORGET_AFTER), None);
    }

    #[test]
    fn a_first_message_replaces_everything_that_was_told() {
        let (reports, now) = (Reports::default(), Instant::now());
        reports.hear("a", report(1, 3), now);
        let empty = DemandReport {
            sequence: 1,
            models: Vec::new(),
            gone: Vec::new(),
        };
        assert_eq!(reports.hear("a", empty, now), HashSet::from([key()]));
        assert_eq!(reports.demand(&key(), now), Some(Demand::default()));
    }
}
