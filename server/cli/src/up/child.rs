//! Keeps one child running: launches it, follows it, starts it again when it ends, until it is told to stop.

use std::{ffi::OsString, net::IpAddr, process::ExitStatus, time::Duration};

use ferrum_engine::{LaunchConfig, Phase, Task};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::Backoff,
    health::HealthClient,
    process::{KEY_VARIABLE, Launch, Process, await_address},
    state_dir::StateDir,
};

/// A child to keep.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// Its name; also that of its log.
    pub(crate) id: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Where its files go.
    pub(crate) state: StateDir,
    /// How its health is asked.
    pub(crate) health: HealthClient,
}

/// What a child is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `ferrum serve`.
    Engine {
        /// Its flags.
        launch: Box<LaunchConfig>,
        /// More flags, for tests.
        extra_args: Vec<String>,
    },
    /// `ferrum router`.
    Router {
        /// Address to listen on.
        host: IpAddr,
        /// Port; 0 takes a free one, and keeps it when the router starts again.
        port: u16,
        /// Key that clients must have.
        api_key: Option<String>,
    },
}

/// What the supervisor wants of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Be there.
    Run,
    /// After `notice`, in which the router learns of it, finish what runs and end.
    Drain {
        /// Time before SIGTERM.
        notice: Duration,
    },
    /// End at once.
    Kill,
}

/// What the supervisor hears of a child.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// It ended by itself and will start again.
    Down {
        /// Why.
        reason: String,
        /// When it starts again.
        retry_in: Duration,
        /// Whether it had been ready.
        was_ready: bool,
    },
    /// It ended as ordered; the last event.
    Gone {
        /// Whether it had to be killed.
        killed: bool,
    },
    /// It listens.
    Listening {
        /// `http://127.0.0.1:PORT`.
        url: String,
    },
    /// Its phase changed.
    Phase {
        /// The phase.
        phase: Phase,
        /// What its model is for, if known.
        task: Option<Task>,
    },
    /// It was launched.
    Started {
        /// Process id.
        pid: Option<u32>,
    },
}

/// Longest time that a child may take to end after SIGTERM, beyond its own drain timeout.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);
/// The router's own drain timeout.
pub(crate) const ROUTER_DRAIN_SECONDS: u64 = 120;
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
const READY_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// An engine that does not answer for so long is stuck, even on a machine that is very busy.
const SILENCE: Duration = Duration::from_secs(60);

/// Keeps `child` until `orders` says otherwise. Events end with [`Event::Gone`].
pub(crate) async fn keep(
    mut child: Child,
    events: mpsc::Sender<(String, Event)>,
    mut orders: watch::Receiver<Order>,
) {
    let mut backoff = Backoff::default();
    let report = Report {
        id: child.id.clone(),
        events,
    };
    let killed = loop {
        let (reason, ready_for) = match live_once(&mut child, &report, &mut orders).await {
            Life::Ordered { killed } => break killed,
            Life::Ended { reason, ready_for } => (reason, ready_for),
        };
        let retry_in = backoff.next(ready_for.unwrap_or_default());
        report
            .send(Event::Down {
                reason,
                retry_in,
                was_ready: ready_for.is_some(),
            })
            .await;
        tokio::select! {
            () = sleep(retry_in) => {}
            () = ordered(&mut orders) => break false,
        }
    };
    report.send(Event::Gone { killed }).await;
}

/// How a life of a child ended.
enum Life {
    Ended {
        reason: String,
        ready_for: Option<Duration>,
    },
    Ordered {
        killed: bool,
    },
}

/// What was seen of a child while it lived.
#[derive(Default)]
struct Seen {
    failure: Option<String>,
    ready_at: Option<Instant>,
}

async fn live_once(child: &mut Child, report: &Report, orders: &mut watch::Receiver<Order>) -> Life {
    if *orders.borrow() != Order::Run {
        return Life::Ordered { killed: false };
    }
    let launch = child.launch();
    let mut process = match Process::spawn(&launch) {
        Ok(process) => process,
        Err(error) => {
            return Life::Ended {
                reason: format!("{error:#}"),
                ready_for: None,
            };
        }
    };
    report.send(Event::Started { pid: process.id() }).await;
    let mut seen = Seen::default();
    let ended = tokio::select! {
        biased;
        () = ordered(orders) => return drain(&mut process, orders, child.drain_patience()).await,
        status = process.wait() => Ok(status.ok()),
        reason = follow(child, &launch, report, &mut seen) => Err(reason),
    };
    let ready_for = seen.ready_at.map(|at| at.elapsed());
    let reason = match ended {
        Ok(status) => explain(&process, status, seen.failure).await,
        Err(reason) => {
            // An engine that has failed ends by itself; one that is stuck may need help.
            if timeout(Duration::from_secs(2), process.wait()).await.is_err() {
                process.stop(Duration::from_secs(5)).await;
            }
            reason
        }
    };
    Life::Ended { reason, ready_for }
}

/// Why it ended: what it said on `/health` says more than its log.
async fn explain(process: &Process, status: Option<ExitStatus>, failure: Option<String>) -> String {
    match failure {
        Some(message) => message,
        None => process.explain(status).await,
    }
}

/// Reports what the child says of itself. Returns when it can be of no more use, with the reason.
async fn follow(child: &mut Child, launch: &Launch, report: &Report, seen: &mut Seen) -> String {
    let url = match await_address(&launch.address_file).await {
        Ok(url) => url,
        Err(error) => return error.to_string(),
    };
    child.keep_port(&url);
    report.send(Event::Listening { url: url.clone() }).await;
    if matches!(child.kind, Kind::Router { .. }) {
        seen.ready_at = Some(Instant::now());
        return std::future::pending().await;
    }
    let mut last = None;
    let mut heard_at = Instant::now();
    loop {
        if let Some(phase) = child.health.phase(&url).await {
            heard_at = Instant::now();
            if let Phase::Failed { message } = phase {
                seen.failure = Some(message.clone());
                return message;
            }
            let is_ready = phase == Phase::Ready;
            if last.as_ref() != Some(&phase) {
                let task = if is_ready {
                    child.health.task(&url).await
                } else {
                    None
                };
                report
                    .send(Event::Phase {
                        phase: phase.clone(),
                        task,
                    })
                    .await;
                last = Some(phase);
            }
            if is_ready {
                seen.ready_at.get_or_insert(heard_at);
            }
        }
        if heard_at.elapsed() > SILENCE {
            return format!("did not answer for {} s", SILENCE.as_secs());
        }
        sleep(if seen.ready_at.is_some() {
            READY_PROBE_INTERVAL
        } else {
            PROBE_INTERVAL
        })
        .await;
    }
}

/// Carries out an order to end.
async fn drain(process: &mut Process, orders: &mut watch::Receiver<Order>, patience: Duration) -> Life {
    let gentle = async {
        let notice = match *orders.borrow() {
            Order::Drain { notice } => notice,
            Order::Run | Order::Kill => Duration::ZERO,
        };
        timeout(notice, process.wait()).await.ok();
        process.stop(patience).await
    };
    let mut urgent = orders.clone();
    let finished = tokio::select! {
        finished = gentle => finished,
        _ = urgent.wait_for(|order| *order == Order::Kill) => false,
    };
    if !finished {
        process.kill().await;
    }
    Life::Ordered { killed: !finished }
}

/// Returns once the child must not go on, also when the supervisor is gone.
async fn ordered(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order != Order::Run).await;
}

struct Report {
    id: String,
    events: mpsc::Sender<(String, Event)>,
}

impl Report {
    async fn send(&self, event: Event) {
        // Without a supervisor nobody needs to know.
        let _ = self.events.send((self.id.clone(), event)).await;
    }
}

impl Child {
    fn launch(&self) -> Launch {
        let mut args: Vec<OsString> = Vec::new();
        let mut env = Vec::new();
        match &self.kind {
            Kind::Engine { launch, extra_args } => {
                args.push("serve".into());
                args.extend(
                    launch
                        .to_args()
                        .into_iter()
                        .chain(extra_args.iter().cloned())
                        .map(OsString::from),
                );
            }
            Kind::Router { host, port, api_key } => {
                args.extend([
                    "router".into(),
                    format!("--host={host}").into(),
                    format!("--port={port}").into(),
                ]);
                args.extend(["--endpoints".into(), self.state.endpoints().into()]);
                args.push(format!("--drain-timeout-seconds={ROUTER_DRAIN_SECONDS}").into());
                // Not as an argument: those can be read by every user of the machine.
                env.extend(api_key.iter().map(|key| (KEY_VARIABLE, key.clone())));
            }
        }
        let address_file = match self.kind {
            Kind::Engine { .. } => self.state.address(&self.id),
            Kind::Router { .. } => self.state.router_address(),
        };
        Launch {
            args,
            env,
            address_file,
            log: self.state.log(&self.id),
        }
    }

    /// Clients have the router's address, so it must be the same after a restart.
    fn keep_port(&mut self, url: &str) {
        let given = url.rsplit(':').next().and_then(|port| port.parse().ok());
        if let (Kind::Router { port, .. }, Some(given)) = (&mut self.kind, given) {
            *port = given;
        }
    }

    fn drain_patience(&self) -> Duration {
        let own_seconds = match &self.kind {
            Kind::Engine { launch, .. } => launch.drain_timeout_seconds,
            Kind::Router { .. } => ROUTER_DRAIN_SECONDS,
        };
        Duration::from_secs(own_seconds) + DRAIN_MARGIN
    }
}
