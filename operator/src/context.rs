//! What every reconcile shares.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ferrum_crds::FerrumModel;
use kube::{Client, Resource as _};

use crate::{
    apply::Seen,
    autoscale::{Memory, Reports},
    caches::Scope,
    config::OperatorConfig,
    dereference::Lookups,
    engines::{Engines, run_key},
    events::Events,
    explain::Hints,
    metrics::Metrics,
    update_status::Written,
};

/// Clients, caches, and what is remembered of each model.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) config: OperatorConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scopes: Arc<[Scope]>,
    pub(crate) events: Events,
    pub(crate) lookups: Lookups,
    pub(crate) engines: Engines,
    pub(crate) reports: Arc<Reports>,
    memories: Mutex<HashMap<String, Arc<tokio::sync::Mutex<ModelMemory>>>>,
}

/// What is remembered of one model from reconcile to reconcile.
#[derive(Default)]
pub(crate) struct ModelMemory {
    /// Objects as they were applied last.
    pub(crate) seen: HashMap<(&'static str, String), Seen>,
    /// The status that was written last: a cache may still have the one before.
    pub(crate) written: Option<Written>,
    pub(crate) autoscale: Memory,
    pub(crate) hints: Hints,
    /// Reconciles that failed, one after the other.
    pub(crate) failures: u32,
}

impl Context {
    pub(crate) fn new(shared: Shared) -> Self {
        let Shared {
            client,
            config,
            metrics,
            scopes,
            events,
            engines,
            reports,
        } = shared;
        Self {
            client,
            config,
            metrics,
            scopes,
            events,
            lookups: Lookups::default(),
            engines,
            reports,
            memories: Mutex::default(),
        }
    }

    /// Every model of every served namespace.
    pub(crate) fn models(&self) -> Vec<Arc<FerrumModel>> {
        self.scopes
            .iter()
            .flat_map(|scope| scope.models.state())
            .collect()
    }

    /// What is remembered of `model`; a model that was made again under an old name begins anew.
    pub(crate) fn memory(&self, model: &FerrumModel) -> Arc<tokio::sync::Mutex<ModelMemory>> {
        let uid = model.meta().uid.clone().unwrap_or_default();
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid).or_default())
    }

    /// Forgets models and engines that are gone.
    pub(crate) fn forget_gone(&self) {
        let models = self.models();
        let uids: std::collections::HashSet<_> = models
            .iter()
            .filter_map(|model| model.metadata.uid.as_deref())
            .collect();
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| uids.contains(uid.as_str()));
        let pods = self.scopes.iter().flat_map(|scope| scope.pods.state());
        self.engines
            .retain(&pods.filter_map(|pod| run_key(&pod)).collect());
    }

    /// Forgets everything that only the leader may rely on.
    pub(crate) fn forget_all(&self) {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.engines.retain(&std::collections::HashSet::new());
    }
}

/// The parts of a [`Context`].
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: OperatorConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scopes: Arc<[Scope]>,
    pub(crate) events: Events,
    pub(crate) engines: Engines,
    pub(crate) reports: Arc<Reports>,
}
