//! The cluster's objects as last heard, and the snapshot made of them. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use ferrum_crds::{Claim, claims};
use kube::runtime::watcher::Event;

use super::objects::{Key, ModelFacts, PodFacts, Read};
use crate::discovery::{Endpoints, ModelEntry, ReplicaEntry};

/// The objects of one watch.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    current: BTreeMap<Key, T>,
    /// What a list that is not complete yet has brought.
    listing: Option<BTreeMap<Key, T>>,
    is_listed: bool,
}

/// A shelf for each watch.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) models: Vec<Shelf<ModelFacts>>,
    pub(super) pods: Vec<Shelf<PodFacts>>,
}

impl<T> Shelf<T> {
    /// Takes an event over; tells whether the snapshot may be another one now. A list replaces everything at its end
    /// and nothing before: one that breaks off leaves what was known.
    pub(super) fn hear(&mut self, event: Event<Read<T>>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply((key, facts)) => {
                if let (Some(listing), Some(facts)) = (&mut self.listing, facts) {
                    listing.insert(key, facts);
                }
                false
            }
            Event::InitDone => {
                self.current = self.listing.take().unwrap_or_default();
                self.is_listed = true;
                true
            }
            Event::Apply((key, Some(facts))) => {
                self.current.insert(key, facts);
                true
            }
            Event::Apply((key, None)) | Event::Delete((key, _)) => self.current.remove(&key).is_some(),
        }
    }
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            current: BTreeMap::new(),
            listing: None,
            is_listed: false,
        }
    }
}

impl Store {
    /// For so many watches of each kind.
    pub(super) fn new(watches: usize) -> Self {
        Self {
            models: std::iter::repeat_with(Shelf::default).take(watches).collect(),
            pods: std::iter::repeat_with(Shelf::default).take(watches).collect(),
        }
    }

    /// Everything there is; `None` until each watch has listed once. Of a name that two models claim, the older one
    /// has it. The generation is left at 0.
    pub(super) fn snapshot(&self) -> Option<Endpoints> {
        let is_complete =
            self.models.iter().all(|shelf| shelf.is_listed) && self.pods.iter().all(|shelf| shelf.is_listed);
        if !is_complete {
            return None;
        }
        let models: Vec<_> = self.models.iter().flat_map(|shelf| &shelf.current).collect();
        let entries = model_entries(&models);
        let known: HashMap<_, _> = models.iter().map(|(key, facts)| (*key, *facts)).collect();
        let pods = self.pods.iter().flat_map(|shelf| &shelf.current);
        let replicas = pods.filter_map(|(key, pod)| {
            let model = Key {
                namespace: key.namespace.clone(),
                name: pod.model.clone(),
            };
            let facts = known.get(&model)?;
            // A pod that is older than its model was made for one of the same name that is gone by now.
            (pod.created_seconds >= facts.created_seconds).then(|| replica_entry(key, pod, &model))
        });
        let replicas: Vec<_> = replicas.collect();
        let served: std::collections::HashSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        Some(Endpoints {
            generation: 0,
            replicas: replicas
                .into_iter()
                .filter(|replica| served.contains(&replica.model))
                .collect(),
            models: entries,
        })
    }
}

/// Name of a model in the snapshot: `namespace/name`.
fn internal_name(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// Models with the names that are theirs; one that has none is left out.
fn model_entries(models: &[(&Key, &ModelFacts)]) -> Vec<ModelEntry> {
    let claiming: Vec<_> = models
        .iter()
        .map(|(key, facts)| Claim {
            namespace: &key.namespace,
            name: &key.name,
            created_seconds: facts.created_seconds,
            served_names: &facts.served_names,
        })
        .collect();
    let owners = claims(&claiming);
    let entries = models.iter().enumerate().map(|(index, (key, facts))| {
        let own = |name: &&String| owners.get(name.as_str()) == Some(&index);
        ModelEntry {
            name: internal_name(key),
            served_names: facts.served_names.iter().filter(own).cloned().collect(),
            task: facts.task,
            message: facts.message.clone(),
            phase: facts.phase.clone(),
        }
    });
    entries.filter(|entry| !entry.served_names.is_empty()).collect()
}

/// The uid is part of the id: a pod that has the name of one before is another replica.
fn replica_entry(key: &Key, pod: &PodFacts, model: &Key) -> ReplicaEntry {
    let address = match pod.address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
        address => address,
    };
    ReplicaEntry {
        id: format!("{}/{}", internal_name(key), pod.uid),
        model: internal_name(model),
        url: format!("http://{}", SocketAddr::new(address, pod.port)),
        draining: pod.is_draining,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
