//! The service `ferrum.v1.Demand`.

use std::{pin::Pin, sync::Arc, time::Duration};

use ferrum_api::demand::{DemandReport, DemandRequest, demand_server::Demand};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tracing::info;

use super::report::Reports;
use crate::Context;

/// Most streams at a time.
const MAX_WATCHERS: usize = 64;
/// Pause between two messages when nothing is urgent.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a message in any case.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// A message comes after so long even if nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A watcher that takes no message for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct DemandService {
    context: Arc<Context>,
    watchers: Arc<Semaphore>,
}

impl DemandService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
    }
}

type Sent = Result<DemandReport, Status>;

#[tonic::async_trait]
impl Demand for DemandService {
    type WatchStream = Pin<Box<dyn Stream<Item = Sent> + Send>>;

    async fn watch(&self, request: Request<DemandRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Ok(permit) = self.watchers.clone().try_acquire_owned() else {
            let message = format!("{MAX_WATCHERS} watchers are here already, the most that may");
            return Err(Status::resource_exhausted(message));
        };
        info!(watcher = request.get_ref().watcher, "demand is watched");
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(tell(self.context.clone(), sender, permit));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends what changes, until the watcher is gone.
async fn tell(context: Arc<Context>, sender: mpsc::Sender<Sent>, _permit: OwnedSemaphorePermit) {
    let mut reports = Reports::default();
    let mut last_sent: Option<Instant> = None;
    loop {
        // Before the look: what begins during the look is told by the next one.
        let begun = context.fleet.begun.notified();
        tokio::pin!(begun);
        begun.as_mut().enable();
        let table = context.fleet.table();
        if table.is_loaded {
            let is_due = last_sent.is_none_or(|sent| sent.elapsed() >= HEARTBEAT);
            if let Some(report) = reports.next(&table, is_due) {
                match timeout(SEND_TIMEOUT, sender.send(Ok(report))).await {
                    Ok(Ok(())) => last_sent = Some(Instant::now()),
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        }
        let looked = Instant::now();
        tokio::select! {
            () = sleep_until(looked + INTERVAL) => {}
            () = begun => sleep_until(looked + MIN_INTERVAL).await,
            () = sender.closed() => return,
        }
    }
}
