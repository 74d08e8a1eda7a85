//! The engine as a server holds it: what any thread may do while the loop runs in its own.

use ferrum_engine::{
    BoxFuture, EngineHandle, EngineLoad, Event, EventStream, KvEvent, ModelCard, SubmitError, Task,
    ValidRequest, channel,
};
use tokio::sync::{broadcast, mpsc, watch};

use crate::{block_pool::blocks_for, scheduler::max_cached_tokens};

/// Changes of the prefix cache that a slow receiver may be behind.
const KV_EVENT_CAPACITY: usize = 4096;

/// A request on its way to the loop.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: ValidRequest,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

/// What bounds the queue; from the launch configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_waiting: usize,
    pub(crate) max_num_seqs: usize,
}

/// Requests by where they are. `queued` counts what the loop has not seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    pub(crate) queued: usize,
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) draining: bool,
}

impl Occupancy {
    pub(crate) fn is_idle(&self) -> bool {
        self.queued + self.waiting + self.running == 0
    }
}

/// What handle and loop both see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) occupancy: watch::Sender<Occupancy>,
    pub(crate) load: watch::Sender<EngineLoad>,
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) kv_events: broadcast::Sender<KvEvent>,
}

impl Shared {
    pub(crate) fn new(load: EngineLoad) -> Self {
        Self {
            occupancy: watch::Sender::default(),
            load: watch::Sender::new(load),
            failure: watch::Sender::default(),
            kv_events: broadcast::Sender::new(KV_EVENT_CAPACITY),
        }
    }
}

/// The one implementation of [`EngineHandle`] over a loop.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) card: ModelCard,
    pub(crate) bounds: Bounds,
    pub(crate) submissions: mpsc::UnboundedSender<Submission>,
    pub(crate) shared: std::sync::Arc<Shared>,
}

impl Handle {
    fn check_task(&self, request: &ValidRequest) -> Result<(), SubmitError> {
        let task = match request {
            ValidRequest::Embed(_) => Task::Embedding,
            ValidRequest::Generate(_) => Task::Chat,
        };
        if task != self.card.task {
            return Err(SubmitError::WrongTask { task: self.card.task });
        }
        Ok(())
    }

    fn check_size(&self, request: &ValidRequest) -> Result<(), SubmitError> {
        let ValidRequest::Generate(request) = request else {
            return Ok(());
        };
        let needed = blocks_for(max_cached_tokens(request.prompt.len(), request.max_tokens));
        // A sequence's block table has room for max_model_len tokens, whatever the pool holds.
        let total = self.card.num_blocks.min(blocks_for(self.card.max_model_len));
        if needed > total {
            return Err(SubmitError::TooLarge { needed, total });
        }
        Ok(())
    }

    /// Counts one more request, in one step with the checks: `max_waiting` may wait, beside those for which
    /// there is a seat among the running ones.
    fn take_place(&self) -> Result<(), SubmitError> {
        let mut refusal = None;
        let Bounds {
            max_waiting,
            max_num_seqs,
        } = self.bounds;
        self.shared.occupancy.send_if_modified(|occupancy| {
            let waiting = occupancy.queued + occupancy.waiting;
            if occupancy.draining {
                refusal = Some(SubmitError::Draining);
            } else if waiting >= max_waiting && waiting + occupancy.running >= max_num_seqs {
                refusal = Some(SubmitError::QueueFull {
                    waiting,
                    limit: max_waiting,
                });
            } else {
                occupancy.queued += 1;
            }
            refusal.is_none()
        });
        refusal.map_or(Ok(()), Err)
    }

    fn failed(&self) -> Option<SubmitError> {
        self.shared.failure.borrow().clone().map(SubmitError::Failed)
    }
}

impl EngineHandle for Handle {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn submit(&self, request: ValidRequest) -> Result<EventStream, SubmitError> {
        if let Some(failed) = self.failed() {
            return Err(failed);
        }
        self.check_task(&request)?;
        self.check_size(&request)?;
        self.take_place()?;
        let (events, stream) = channel();
        // A loop that is gone has set its failure before it closed the channel.
        self.submissions
            .send(Submission { request, events })
            .map_err(|_| self.failed().unwrap_or(SubmitError::Draining))?;
        Ok(stream)
    }

    fn load(&self) -> watch::Receiver<EngineLoad> {
        self.shared.load.subscribe()
    }

    fn kv_events(&self) -> broadcast::Receiver<KvEvent> {
        self.shared.kv_events.subscribe()
    }

    fn drain(&self) {
        self.shared
            .occupancy
            .send_modify(|occupancy| occupancy.draining = true);
    }

    fn idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut occupancy = self.shared.occupancy.subscribe();
            let mut failure = self.shared.failure.subscribe();
            // Neither sender goes away while this handle is borrowed.
            tokio::select! {
                _ = occupancy.wait_for(Occupancy::is_idle) => {}
                _ = failure.wait_for(Option::is_some) => {}
            }
        })
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }
}
