//! The models that are wanted and the replicas that there are, with everything that is told of them.

use std::collections::BTreeMap;

use ferrum_crds::ValidatedModel;
use ferrum_engine::{LaunchConfig, Phase, Task};
use ferrum_router::discovery::{Endpoints, ModelEntry, ReplicaEntry};
use tokio::sync::watch;

use super::{
    child::{Event, Order},
    control::{ModelSummary, ReplicaStatus},
    plan::{Running, State},
};

/// Every model and replica of one supervisor.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// What should run, in the order of the manifests.
    pub(crate) desired: Vec<ValidatedModel>,
    /// What runs, by name.
    pub(crate) replicas: BTreeMap<String, Replica>,
    /// Whether any replica was ever ready.
    pub(crate) was_ever_ready: bool,
}

/// One replica.
#[derive(Debug)]
pub(crate) struct Replica {
    model: String,
    launch: LaunchConfig,
    state: State,
    phase: Option<Phase>,
    task: Option<Task>,
    url: Option<String>,
    pid: Option<u32>,
    failure: Option<String>,
    restarts: usize,
    orders: watch::Sender<Order>,
}

impl Replica {
    /// A replica that was just launched.
    pub(crate) fn new(model: String, launch: LaunchConfig, orders: watch::Sender<Order>) -> Self {
        Self {
            model,
            launch,
            state: State::Starting,
            phase: None,
            task: None,
            url: None,
            pid: None,
            failure: None,
            restarts: 0,
            orders,
        }
    }

    /// Whether the router may know it.
    pub(crate) fn is_listed(&self) -> bool {
        self.url.is_some()
    }

    /// Marks it as one that the router must not choose any more.
    pub(crate) fn mark_draining(&mut self) {
        self.state = State::Draining;
    }

    /// Tells it what to do.
    pub(crate) fn order(&self, order: Order) {
        // A replica that is gone needs no order.
        self.orders.send_replace(order);
    }
}

impl Fleet {
    /// What [`super::plan::plan`] needs to know.
    pub(crate) fn running(&self) -> Vec<Running> {
        let running = self.replicas.iter().map(|(id, replica)| Running {
            id: id.clone(),
            model: replica.model.clone(),
            launch: replica.launch.clone(),
            state: replica.state,
        });
        running.collect()
    }

    /// Takes note of what a replica reported.
    pub(crate) fn apply(&mut self, id: &str, event: &Event) {
        if matches!(event, Event::Gone { .. }) {
            self.replicas.remove(id);
            return;
        }
        let Some(replica) = self.replicas.get_mut(id) else {
            return;
        };
        match event {
            Event::Down {
                reason, was_ready, ..
            } => {
                (replica.url, replica.pid, replica.phase) = (None, None, None);
                replica.restarts += 1;
                replica.failure = Some(reason.clone());
                if replica.state != State::Draining {
                    replica.state = if *was_ready {
                        State::Starting
                    } else {
                        State::Failed
                    };
                }
            }
            Event::Gone { .. } => {}
            Event::Listening { url } => replica.url = Some(url.clone()),
            Event::Phase { phase, task } => {
                replica.task = task.or(replica.task);
                replica.phase = Some(phase.clone());
                if *phase == Phase::Ready && replica.state != State::Draining {
                    replica.state = State::Ready;
                    replica.failure = None;
                    self.was_ever_ready = true;
                }
            }
            Event::Started { pid } => replica.pid = *pid,
        }
    }

    /// The snapshot for the router, as generation 0.
    pub(crate) fn endpoints(&self) -> Endpoints {
        let models = self.desired.iter().map(|model| ModelEntry {
            name: model.name().to_owned(),
            served_names: model.served_names().to_vec(),
            task: self.task_of(model),
            message: self.message_of(model),
            phase: None,
        });
        let is_desired = |name: &str| self.desired.iter().any(|model| model.name() == name);
        // A model that was removed is unknown at once; what runs on its replicas is not disturbed by that.
        let replicas = self
            .replicas
            .iter()
            .filter(|(_, replica)| is_desired(&replica.model));
        let replicas = replicas.filter_map(|(id, replica)| {
            Some(ReplicaEntry {
                id: id.clone(),
                model: replica.model.clone(),
                url: replica.url.clone()?,
                draining: replica.state == State::Draining,
            })
        });
        Endpoints {
            generation: 0,
            models: models.collect(),
            replicas: replicas.collect(),
        }
    }

    /// Whether nothing moves: every replica that stays is ready or has failed, and none goes.
    pub(crate) fn is_settled(&self) -> bool {
        self.replicas
            .values()
            .all(|replica| matches!(replica.state, State::Ready | State::Failed))
    }

    /// Whether there are replicas and none of them could ever start.
    pub(crate) fn is_hopeless(&self) -> bool {
        let failed = |replica: &Replica| replica.state == State::Failed;
        !self.was_ever_ready && !self.replicas.is_empty() && self.replicas.values().all(failed)
    }

    /// The models, for people.
    pub(crate) fn summarize(&self) -> Vec<ModelSummary> {
        let summary = |model: &ValidatedModel| ModelSummary {
            name: model.name().to_owned(),
            served_name: model.served_names()[0].clone(),
            task: self.task_of(model),
            ready: self
                .of(model)
                .filter(|replica| replica.state == State::Ready)
                .count(),
            wanted: model.replicas(),
            failure: self.of(model).find_map(|replica| replica.failure.clone()),
        };
        self.desired.iter().map(summary).collect()
    }

    /// The replicas, for people.
    pub(crate) fn status(&self) -> Vec<ReplicaStatus> {
        let row = |(id, replica): (&String, &Replica)| ReplicaStatus {
            id: id.clone(),
            model: replica.model.clone(),
            state: replica.describe(),
            pid: replica.pid,
            url: replica.url.clone(),
            restarts: replica.restarts,
        };
        self.replicas.iter().map(row).collect()
    }

    /// Its replicas that stay.
    fn of(&self, model: &ValidatedModel) -> impl Iterator<Item = &Replica> {
        let name = model.name().to_owned();
        self.replicas
            .values()
            .filter(move |replica| replica.model == name && replica.state != State::Draining)
    }

    /// What a model is for: by its manifest, else by its weights once an engine has read them, else the usual.
    fn task_of(&self, model: &ValidatedModel) -> Task {
        model
            .task()
            .or_else(|| self.of(model).find_map(|replica| replica.task))
            .unwrap_or(Task::Chat)
    }

    /// Why a model cannot be served, for clients.
    fn message_of(&self, model: &ValidatedModel) -> Option<String> {
        if model.replicas() == 0 {
            return Some("it is stopped: its manifest asks for 0 replicas".to_owned());
        }
        let all_failed = self.of(model).all(|replica| replica.state == State::Failed);
        if all_failed {
            self.of(model).find_map(|replica| replica.failure.clone())
        } else {
            None
        }
    }
}

impl Replica {
    fn describe(&self) -> String {
        match (self.state, &self.phase, &self.failure) {
            (State::Draining, ..) => "draining".to_owned(),
            (State::Failed, _, Some(failure)) => format!("failed: {failure}"),
            (_, Some(phase), _) => super::health::describe(phase),
            (_, None, Some(failure)) => format!("restarts: {failure}"),
            (_, None, None) => "starts".to_owned(),
        }
    }
}
