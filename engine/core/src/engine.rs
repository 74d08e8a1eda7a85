//! The engine as a server sees it.

use std::{pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};

use crate::{EngineLoad, Event, KvEvent, ModelCard, ValidRequest};

/// An engine that is loaded. Cheap to share; every method returns at once.
pub trait EngineHandle: Send + Sync + 'static {
    /// The model.
    fn card(&self) -> &ModelCard;

    /// Hands a request over. Dropping the stream cancels the request: its blocks are free again within one step.
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn submit(&self, request: ValidRequest) -> Result<EventStream, SubmitError>;

    /// How busy it is, and each change of it (at most a few a second).
    fn load(&self) -> watch::Receiver<EngineLoad>;

    /// Changes of the prefix cache from now on. A receiver that lags must ask for a new start.
    fn kv_events(&self) -> broadcast::Receiver<KvEvent>;

    /// Stops admitting; what was submitted goes on. Idempotent.
    fn drain(&self);

    /// Waits until nothing waits or runs any more, or the engine has failed.
    fn idle(&self) -> BoxFuture<'_, ()>;

    /// `None` while the engine works; the reason once it has failed for good.
    fn failure(&self) -> watch::Receiver<Option<String>>;
}

/// A boxed, sendable future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl EventStream {
    /// The next event; `None` after the last, and also if the engine's thread is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// The next event from a thread outside of the async runtime.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.receiver.blocking_recv()
    }
}

/// The engine's end and the client's end of one request. It is unbounded, as `max_tokens` bounds it.
pub fn channel() -> (mpsc::UnboundedSender<Event>, EventStream) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, EventStream { receiver })
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The engine stops soon; another replica may take it.
    #[error("the engine is shutting down")]
    Draining,
    /// The engine is gone.
    #[error("the engine failed: {0}")]
    Failed(String),
    /// The queue is at its bound.
    #[error("{waiting} requests are waiting already, the most that may wait is {limit}")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// The bound.
        limit: usize,
    },
    /// It needs more cache than the whole pool has.
    #[error("the request needs {needed} KV cache blocks, the engine has {total}")]
    TooLarge {
        /// Blocks for prompt and answer.
        needed: usize,
        /// Blocks in the pool.
        total: usize,
    },
    /// The model has another task.
    #[error("this model serves {task}")]
    WrongTask {
        /// What it serves.
        task: crate::Task,
    },
}

/// What a starting engine is doing; told by the server on /health and over telemetry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    /// Stops; finishes what runs.
    Draining,
    /// Could not start, or died.
    Failed {
        /// What a person should read.
        message: String,
    },
    /// Downloads weights.
    Fetching {
        /// Bytes present.
        done_bytes: u64,
        /// Bytes in all, 0 while unknown.
        total_bytes: u64,
    },
    /// Reads and packs weights.
    Loading {
        /// Tensors done.
        done: u64,
        /// Tensors in all.
        total: u64,
    },
    /// A token can be made.
    Ready,
    /// The process has begun.
    Starting,
    /// Makes a first token.
    Warming,
}

/// An engine that any thread may use.
pub type SharedEngine = Arc<dyn EngineHandle>;
