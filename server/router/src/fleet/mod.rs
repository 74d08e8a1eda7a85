//! The models and replicas that there are, kept equal to the last snapshot.

mod health;
mod model;
mod queue;
mod replica;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, task::AbortHandle};

pub(crate) use self::{
    health::{Health, RefusalKind},
    model::{Model, NoChoice, Shared, describe},
    queue::{Ticket, WaitQueue},
    replica::{InFlight, Replica},
};
use crate::{
    config::RouterConfig,
    discovery::{Endpoints, ReplicaEntry},
    proxy::Upstream,
    telemetry,
};

/// Most names in a message.
const MAX_SHOWN: usize = 50;

/// All models. Reading is wait-free; a snapshot replaces the whole table.
#[derive(Debug)]
pub(crate) struct Fleet {
    config: RouterConfig,
    table: ArcSwap<Table>,
    watches: Mutex<HashMap<ReplicaKey, Watch>>,
    /// Told when a model begins to hold requests.
    pub(crate) begun: Arc<Notify>,
}

/// What requests look into.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Whether any snapshot has come yet.
    pub(crate) is_loaded: bool,
    pub(crate) models: Vec<Arc<Model>>,
    by_served_name: HashMap<String, Arc<Model>>,
}

/// A process that comes back at another address, or for another model, is another replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ReplicaKey {
    id: String,
    model: String,
    url: String,
}

/// A replica and the task that listens to it; dropping it ends the task.
#[derive(Debug)]
struct Watch {
    replica: Arc<Replica>,
    task: AbortHandle,
}

impl Fleet {
    pub(crate) fn new(config: RouterConfig) -> Self {
        Self {
            config,
            table: ArcSwap::default(),
            watches: Mutex::default(),
            begun: Arc::default(),
        }
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Takes a snapshot over: new replicas are listened to, replicas that are gone get no more requests (those that
    /// they have go on), all others stay as they are.
    pub(crate) fn apply(&self, endpoints: &Endpoints) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table();
        let mut table = Table {
            is_loaded: true,
            ..Table::default()
        };
        let mut kept = HashMap::new();
        let known: HashMap<_, _> = before
            .models
            .iter()
            .map(|model| (&model.name, &model.shared))
            .collect();
        let mut listed: HashMap<&str, Vec<&ReplicaEntry>> = HashMap::new();
        for replica in &endpoints.replicas {
            listed.entry(&replica.model).or_default().push(replica);
        }
        for entry in &endpoints.models {
            let shared = known.get(&entry.name).map_or_else(
                || Arc::new(Shared::new(self.config.queue_limit, self.begun.clone())),
                |&shared| shared.clone(),
            );
            let mut replicas = Vec::new();
            for replica in listed.remove(entry.name.as_str()).unwrap_or_default() {
                let key = ReplicaKey::of(replica);
                let watch = watches
                    .remove(&key)
                    .unwrap_or_else(|| self.watch(replica, &shared));
                watch.replica.set_draining(replica.draining);
                replicas.push(watch.replica.clone());
                kept.insert(key, watch);
            }
            let model = Arc::new(Model {
                name: entry.name.clone(),
                served_names: entry.served_names.clone(),
                task: entry.task,
                message: entry.message.clone(),
                phase: entry.phase.clone(),
                replicas,
                shared,
            });
            for name in &entry.served_names {
                table.by_served_name.insert(name.clone(), model.clone());
            }
            table.models.push(model);
        }
        *watches = kept;
        self.table.store(Arc::new(table));
        // Models that are gone too: their waiters have to hear of it.
        for model in before.models.iter().chain(&self.table().models) {
            model.shared.queue.wake_all();
        }
    }

    fn watch(&self, entry: &ReplicaEntry, shared: &Arc<Shared>) -> Watch {
        let upstream = Upstream::new(&entry.url, self.config.connect_timeout);
        let times = self.config.telemetry.clone();
        let replica = Replica::new(entry.id.clone(), upstream, shared.clone(), times);
        let replica = Arc::new(replica);
        let listening = telemetry::listen(replica.clone(), shared.clone(), self.config.telemetry.clone());
        Watch {
            replica,
            task: tokio::spawn(listening).abort_handle(),
        }
    }
}

impl Table {
    /// The model that answers to an OpenAI `model` value.
    pub(crate) fn model(&self, served_name: &str) -> Option<&Arc<Model>> {
        self.by_served_name.get(served_name)
    }

    /// The names that answer, of those that may be shown, for a person.
    pub(crate) fn served_names(&self, is_shown: impl Fn(&str) -> bool) -> String {
        let names = self.models.iter().flat_map(|model| &model.served_names);
        names
            .filter(|name| is_shown(name))
            .take(MAX_SHOWN)
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl ReplicaKey {
    fn of(entry: &ReplicaEntry) -> Self {
        Self {
            id: entry.id.clone(),
            model: entry.model.clone(),
            url: entry.url.clone(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
