//! `ferrum up` itself: one loop that hears of everything, asks the plan, and carries it out.

mod answers;
mod shutdown;

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use ferrum_crds::{ValidatedModel, manifest::Refusals};
use ferrum_router::discovery::Endpoints;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    child::{self, Child, Event, Kind, Order},
    control::Call,
    fleet::{Fleet, Replica},
    health::HealthClient,
    plan::{Action, plan},
    progress::Progress,
    report,
    signals::Signals,
    state_dir::StateDir,
};

/// How a supervisor runs.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where its files are.
    pub(crate) state: StateDir,
    /// Address of the router.
    pub(crate) host: IpAddr,
    /// Port of the router; 0 takes a free one.
    pub(crate) port: u16,
    /// Key that clients must have.
    pub(crate) api_key: Option<String>,
    /// More flags for every engine, for tests.
    pub(crate) engine_args: Vec<String>,
    /// Go on when nothing could start, as a changed manifest may help.
    pub(crate) stays: bool,
}

/// What a supervisor hears.
pub(crate) struct Inputs {
    /// Requests over the control socket.
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Manifests that changed on disk; without `--watch` none ever come.
    pub(crate) changes: mpsc::Receiver<Result<Vec<ValidatedModel>, Refusals>>,
    /// Ctrl-C and the like.
    pub(crate) signals: Signals,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No replica of any model could start.
    NothingStarted,
    /// Somebody stopped it.
    Stopped,
}

/// The name of the router among the children; no model's replica is called so, as those end with a number.
const ROUTER: &str = "router";
/// Time in which the router reads a new snapshot, before a replica that left it is told to stop. If it takes longer,
/// the replica refuses new requests and the router sends them elsewhere.
const NOTICE: Duration = Duration::from_millis(500);
const MOST_EVENTS: usize = 1024;

/// Serves `models` until it is stopped.
///
/// # Errors
/// When the router cannot start at all.
pub(crate) async fn run(
    options: Options,
    models: Vec<ValidatedModel>,
    inputs: Inputs,
) -> anyhow::Result<Outcome> {
    let mut supervisor = Supervisor::new(options, inputs)?;
    supervisor.fleet.desired = models;
    supervisor.tell_ignored();
    supervisor.write_endpoints();
    supervisor.start_router();
    let ended = supervisor.work().await;
    supervisor.shut_down().await;
    ended
}

struct Supervisor {
    options: Options,
    inputs: Inputs,
    fleet: Fleet,
    router: Router,
    progress: Progress,
    health: HealthClient,
    events: mpsc::Receiver<(String, Event)>,
    event_sender: mpsc::Sender<(String, Event)>,
    /// The last snapshot.
    written: Endpoints,
    /// It could not be written.
    is_stale: bool,
    /// Someone waits to hear that everything is ready or has failed.
    is_awaited: bool,
}

struct Router {
    orders: watch::Sender<Order>,
    url: Option<String>,
    is_gone: bool,
}

impl Supervisor {
    fn new(options: Options, inputs: Inputs) -> anyhow::Result<Self> {
        let (event_sender, events) = mpsc::channel(MOST_EVENTS);
        Ok(Self {
            options,
            inputs,
            fleet: Fleet::default(),
            router: Router {
                orders: watch::Sender::new(Order::Run),
                url: None,
                is_gone: true,
            },
            progress: Progress::new(),
            health: HealthClient::new()?,
            events,
            event_sender,
            written: Endpoints::default(),
            is_stale: true,
            is_awaited: true,
        })
    }

    /// Hears, plans, acts; until it is to stop.
    async fn work(&mut self) -> anyhow::Result<Outcome> {
        loop {
            self.reconcile();
            if self.is_awaited && self.router.url.is_some() && self.fleet.is_settled() {
                self.settle();
                if self.fleet.is_hopeless() && !self.options.stays {
                    return Ok(Outcome::NothingStarted);
                }
            }
            tokio::select! {
                Some((id, event)) = self.events.recv() => self.hear(&id, event)?,
                Some((request, replies)) = self.inputs.calls.recv() => {
                    if self.answer(request, replies) {
                        return Ok(Outcome::Stopped);
                    }
                }
                Some(change) = self.inputs.changes.recv() => self.change(change),
                () = self.inputs.signals.next() => return Ok(Outcome::Stopped),
                () = sleep(Duration::from_secs(1)), if self.is_stale => self.write_endpoints(),
            }
        }
    }

    /// Carries out plans until there is nothing to do now.
    fn reconcile(&mut self) {
        let actions = plan(&self.fleet.desired, &self.fleet.running());
        if actions.is_empty() {
            return;
        }
        let mut draining = Vec::new();
        for action in actions {
            match action {
                Action::Drain { id, reason } => {
                    self.progress.settled(&id);
                    self.progress.line(&format!("{id}: stops: {reason}"));
                    if let Some(replica) = self.fleet.replicas.get_mut(&id) {
                        replica.mark_draining();
                        draining.push(id);
                    }
                }
                Action::Start {
                    id,
                    model,
                    launch,
                    reason,
                } => {
                    self.progress.line(&format!("{id}: starts: {reason}"));
                    let extra_args = self.engine_args(&model);
                    let kind = Kind::Engine {
                        launch: Box::new(local(&launch)),
                        extra_args,
                    };
                    let orders = self.keep(&id, kind);
                    self.fleet
                        .replicas
                        .insert(id, Replica::new(model, launch, orders));
                }
            }
        }
        // First the router must know, then a replica may stop.
        self.write_endpoints();
        for id in draining {
            if let Some(replica) = self.fleet.replicas.get(&id) {
                let notice = if replica.is_listed() {
                    NOTICE
                } else {
                    Duration::ZERO
                };
                replica.order(Order::Drain { notice });
            }
        }
    }

    fn hear(&mut self, id: &str, event: Event) -> anyhow::Result<()> {
        if id == ROUTER {
            return self.hear_router(event);
        }
        match &event {
            Event::Down {
                reason,
                retry_in,
                was_ready,
            } => {
                self.progress.settled(id);
                let what = if *was_ready {
                    "broke off"
                } else {
                    "could not start"
                };
                let (log, wait) = (self.options.state.log(id), retry_in.as_secs_f64());
                self.progress.line(&format!("{id}: {what}: {reason}"));
                self.progress.line(&format!(
                    "{id}: next try in {wait:.1} s; its output is in {}",
                    log.display()
                ));
            }
            Event::Gone { killed } => {
                let how = if *killed {
                    "was killed, as it did not end in time"
                } else {
                    "stopped"
                };
                self.progress.line(&format!("{id}: {how}"));
            }
            Event::Listening { .. } => {}
            Event::Phase { phase, .. } => self.progress.phase(id, phase),
            Event::Started { .. } => self.progress.started(id),
        }
        self.fleet.apply(id, &event);
        self.write_endpoints();
        Ok(())
    }

    fn hear_router(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Down { reason, .. } if self.router.url.is_none() => {
                bail!("the router could not start: {reason}")
            }
            Event::Down { reason, retry_in, .. } => {
                let wait = retry_in.as_secs_f64();
                self.progress
                    .line(&format!("router: broke off: {reason}; next try in {wait:.1} s"));
            }
            Event::Gone { .. } => self.router.is_gone = true,
            Event::Listening { url } => {
                if self.router.url.is_none() {
                    self.progress
                        .line(&format!("router: listens on {}", report::reachable(&url)));
                }
                self.router.url = Some(url);
            }
            Event::Phase { .. } | Event::Started { .. } => {}
        }
        Ok(())
    }

    /// The arguments for every engine, and those marked `NAME@` for the engines of one model.
    fn engine_args(&self, model: &str) -> Vec<String> {
        let own = |arg: &String| match arg.split_once('@') {
            Some((name, rest)) if !name.starts_with('-') => (name == model).then(|| rest.to_owned()),
            _ => Some(arg.clone()),
        };
        self.options.engine_args.iter().filter_map(own).collect()
    }

    fn start_router(&mut self) {
        let Options {
            host, port, api_key, ..
        } = self.options.clone();
        self.router.orders = self.keep(ROUTER, Kind::Router { host, port, api_key });
        self.router.is_gone = false;
    }

    fn keep(&self, id: &str, kind: Kind) -> watch::Sender<Order> {
        let (orders, receiver) = watch::channel(Order::Run);
        let (state, health) = (self.options.state.clone(), self.health.clone());
        tokio::spawn(child::keep(
            Child {
                id: id.to_owned(),
                kind,
                state,
                health,
            },
            self.event_sender.clone(),
            receiver,
        ));
        orders
    }

    /// Writes the snapshot if it changed; one that cannot be written is tried again.
    fn write_endpoints(&mut self) {
        let next = Endpoints {
            generation: self.written.generation,
            ..self.fleet.endpoints()
        };
        if next == self.written && !self.is_stale {
            return;
        }
        let next = Endpoints {
            generation: self.written.generation + 1,
            ..next
        };
        let written = next
            .write_atomically(&self.options.state.endpoints())
            .context("the router is told nothing new");
        if let (Err(error), false) = (&written, self.is_stale) {
            self.progress.line(&format!("{error:#}"));
        }
        self.is_stale = written.is_err();
        self.written = next;
    }
}

/// A launch as one machine wants it: on a free port that only this machine reaches.
fn local(launch: &ferrum_engine::LaunchConfig) -> ferrum_engine::LaunchConfig {
    ferrum_engine::LaunchConfig {
        host: "127.0.0.1".to_owned(),
        port: 0,
        ..launch.clone()
    }
}
