//! One router's stream.

use std::{sync::Arc, time::Duration};

use ferrum_api::telemetry::{KvBlockEvent, KvBlocks, TelemetryEvent, telemetry_event::Event};
use ferrum_engine::{EngineLoad, Phase};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{convert, kv_mirror::cleared};
use crate::app::{App, LoadedModel};

/// Load is told at most this often, and at once when nothing runs any more.
const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// Block events in one message.
const MAX_BLOCK_EVENTS: usize = 512;

/// The state of one router's stream.
pub(super) struct Watch {
    app: Arc<App>,
    sender: mpsc::Sender<Result<TelemetryEvent, Status>>,
    kv_blocks: bool,
    sequence: u64,
}

/// The router has gone.
struct Gone;

impl Watch {
    pub(super) fn new(
        app: Arc<App>,
        sender: mpsc::Sender<Result<TelemetryEvent, Status>>,
        kv_blocks: bool,
    ) -> Self {
        Self {
            app,
            sender,
            kv_blocks,
            sequence: 0,
        }
    }

    /// Tells the phase, then the card and the load once there is a model, then every change, until the router has gone
    /// or the frontend stops.
    pub(super) async fn run(mut self) {
        // Gone: nobody is left to tell.
        let _ = self.tell().await;
    }

    async fn tell(&mut self) -> Result<(), Gone> {
        let app = Arc::clone(&self.app);
        let mut phase = app.phase.subscribe();
        let mut now = phase.borrow_and_update().clone();
        loop {
            let model = app.model.get();
            if model.is_some() && now == Phase::Ready && self.sequence > 0 {
                break;
            }
            self.send(Event::Phase(convert::phase(&now))).await?;
            if model.is_some() {
                break;
            }
            tokio::select! {
                () = app.stop.cancelled() => return Ok(()),
                () = self.sender.closed() => return Err(Gone),
                changed = phase.changed() => changed.map_err(|_| Gone)?,
            }
            now = phase.borrow_and_update().clone();
        }
        match app.model.get() {
            Some(model) => self.tell_model(model, phase, now).await,
            None => Ok(()),
        }
    }

    /// `last` is the phase that stands.
    async fn tell_model(
        &mut self,
        model: &LoadedModel,
        mut phase: watch::Receiver<Phase>,
        last: Phase,
    ) -> Result<(), Gone> {
        self.send(Event::Card(convert::card(model.card()))).await?;
        let mut load = Load::new(model.engine.load());
        self.send(Event::Load(convert::load(&load.take()))).await?;
        self.send(Event::Phase(convert::phase(&last))).await?;
        let (mut blocks, snapshot) = self.subscribe(model);
        self.send_blocks(snapshot).await?;
        let app = Arc::clone(&self.app);
        loop {
            tokio::select! {
                () = app.stop.cancelled() => return Ok(()),
                () = self.sender.closed() => return Err(Gone),
                changed = phase.changed() => {
                    changed.map_err(|_| Gone)?;
                    let now = phase.borrow_and_update().clone();
                    self.send(Event::Phase(convert::phase(&now))).await?;
                }
                now = load.changed() => self.send(Event::Load(convert::load(&now?))).await?,
                event = next_block(&mut blocks) => match event {
                    Ok(event) => {
                        let mut events = vec![event];
                        while let Some(Ok(event)) = blocks.as_mut().map(broadcast::Receiver::try_recv) {
                            events.push(event);
                            if events.len() == MAX_BLOCK_EVENTS { break; }
                        }
                        self.send_blocks(events).await?;
                    }
                    // Too far behind: the router starts again from what is held now.
                    Err(()) => {
                        let (receiver, snapshot) = self.subscribe(model);
                        blocks = receiver;
                        self.send_blocks(std::iter::once(cleared()).chain(snapshot).collect()).await?;
                    }
                },
            }
        }
    }

    fn subscribe(
        &self,
        model: &LoadedModel,
    ) -> (Option<broadcast::Receiver<KvBlockEvent>>, Vec<KvBlockEvent>) {
        if !self.kv_blocks {
            return (None, Vec::new());
        }
        let (snapshot, receiver) = model.kv_mirror.subscribe();
        (Some(receiver), snapshot)
    }

    async fn send_blocks(&mut self, mut events: Vec<KvBlockEvent>) -> Result<(), Gone> {
        while !events.is_empty() {
            let rest = events.split_off(events.len().min(MAX_BLOCK_EVENTS));
            self.send(Event::KvBlocks(KvBlocks { events })).await?;
            events = rest;
        }
        Ok(())
    }

    async fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.sequence += 1;
        let event = TelemetryEvent {
            sequence: self.sequence,
            event: Some(event),
        };
        self.sender.send(Ok(event)).await.map_err(|_| Gone)
    }
}

/// The next change of a block; `Err` when changes were missed. Never where blocks are not watched.
async fn next_block(blocks: &mut Option<broadcast::Receiver<KvBlockEvent>>) -> Result<KvBlockEvent, ()> {
    let Some(receiver) = blocks else {
        return std::future::pending().await;
    };
    match receiver.recv().await {
        Ok(event) => Ok(event),
        Err(broadcast::error::RecvError::Lagged(_)) => Err(()),
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

/// The load, told at most every [`LOAD_INTERVAL`], and at once when nothing runs any more that was told to run.
struct Load {
    receiver: watch::Receiver<EngineLoad>,
    /// When it was told last.
    told: Instant,
    /// What was told then.
    last: EngineLoad,
    /// It changed since.
    changed: bool,
}

impl Load {
    fn new(receiver: watch::Receiver<EngineLoad>) -> Self {
        Self {
            receiver,
            told: Instant::now(),
            last: EngineLoad::default(),
            changed: false,
        }
    }

    /// The load as of now, which counts as told.
    fn take(&mut self) -> EngineLoad {
        self.told = Instant::now();
        self.changed = false;
        self.last = *self.receiver.borrow_and_update();
        self.last
    }

    /// Waits for the next load to tell. Cancel-safe.
    async fn changed(&mut self) -> Result<EngineLoad, Gone> {
        loop {
            let due = self.told + LOAD_INTERVAL;
            tokio::select! {
                changed = self.receiver.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.changed = true;
                    let load = *self.receiver.borrow();
                    if (is_idle(&load) && !is_idle(&self.last)) || Instant::now() >= due {
                        return Ok(self.take());
                    }
                }
                () = sleep_until(due), if self.changed => return Ok(self.take()),
            }
        }
    }
}

fn is_idle(load: &EngineLoad) -> bool {
    load.waiting_requests + load.running_requests == 0
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn load_is_told_at_once_when_it_ends_and_seldom_meanwhile() {
        let (sender, receiver) = watch::channel(EngineLoad::default());
        let mut load = Load::new(receiver);
        load.take();
        let start = Instant::now();
        let runs = |running_requests| {
            sender.send_replace(EngineLoad {
                running_requests,
                ..EngineLoad::default()
            })
        };
        let changes = async {
            for running in 1..=25 {
                sleep(Duration::from_millis(if running == 1 { 5 } else { 10 })).await;
                runs(running);
            }
            sleep(Duration::from_millis(10)).await;
            runs(0);
            // What nobody heard the beginning of need not be told to have ended.
            sleep(Duration::from_millis(10)).await;
            runs(1);
            sleep(Duration::from_millis(10)).await;
            runs(0);
        };
        let told = async {
            let mut told = Vec::new();
            while told.len() < 4 {
                let Ok(now) = load.changed().await else {
                    panic!("gone")
                };
                told.push((start.elapsed().as_millis(), now.running_requests));
            }
            told
        };
        let ((), told) = tokio::join!(changes, told);
        assert_eq!(told, [(100, 10), (200, 20), (255, 0), (355, 0)]);
    }
}
