//! The prefix cache as routers see it: which blocks are held, each as the length and hash of its text.
//!
//! The engine tells changes only, from the moment one listens. So the mirror listens from the start and keeps what is
//! held, and a router that comes later gets a snapshot first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ferrum_api::telemetry::{KvBlockEvent, byte_hash, kv_block_event};
use ferrum_engine::KvEvent;
use tokio::sync::broadcast;

use crate::text::Vocabulary;

/// Changes that may wait for a router; one that falls further behind starts again.
const BUFFER: usize = 1024;

/// The blocks held, and those who follow them.
pub(crate) struct KvMirror {
    vocabulary: Arc<Vocabulary>,
    state: Mutex<State>,
}

struct State {
    /// By chain hash, with the order in which they came: a parent comes before its children.
    blocks: HashMap<u64, (u64, kv_block_event::Stored)>,
    arrivals: u64,
    changes: broadcast::Sender<KvBlockEvent>,
}

impl KvMirror {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        let state = State {
            blocks: HashMap::new(),
            arrivals: 0,
            changes: broadcast::Sender::new(BUFFER),
        };
        Self {
            vocabulary,
            state: Mutex::new(state),
        }
    }

    /// Follows the engine until it is gone.
    pub(crate) async fn follow(self: Arc<Self>, mut events: broadcast::Receiver<KvEvent>) {
        loop {
            match events.recv().await {
                Ok(event) => self.apply(event),
                // Some blocks are held that we do not know and some are gone that we do. To know too few costs a
                // router a worse choice, to know wrong ones misleads it.
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(
                        missed,
                        "block events came too fast; starting again without the blocks held"
                    );
                    self.apply(KvEvent::Cleared);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// The blocks held, parents first, and every change after.
    pub(crate) fn subscribe(&self) -> (Vec<KvBlockEvent>, broadcast::Receiver<KvBlockEvent>) {
        let state = self.state();
        let mut blocks: Vec<_> = state.blocks.values().collect();
        blocks.sort_unstable_by_key(|(arrival, _)| *arrival);
        let snapshot = blocks.into_iter().map(|(_, block)| stored(*block)).collect();
        (snapshot, state.changes.subscribe())
    }

    fn apply(&self, event: KvEvent) {
        let change = match event {
            KvEvent::Cleared => cleared(),
            KvEvent::Evicted { hash } => KvBlockEvent {
                event: Some(kv_block_event::Event::Evicted(hash)),
            },
            KvEvent::Stored { hash, parent, tokens } => {
                let bytes = self.vocabulary.bytes_of(&tokens);
                stored(kv_block_event::Stored {
                    hash,
                    parent,
                    byte_len: bytes.len() as u32,
                    byte_hash: byte_hash(&bytes),
                })
            }
        };
        let mut state = self.state();
        match &change.event {
            Some(kv_block_event::Event::Stored(block)) => {
                state.arrivals += 1;
                let arrival = state.arrivals;
                state.blocks.insert(block.hash, (arrival, *block));
            }
            Some(kv_block_event::Event::Evicted(hash)) => {
                state.blocks.remove(hash);
            }
            Some(kv_block_event::Event::Cleared(_)) | None => state.blocks.clear(),
        }
        // Nobody watches: nobody needs it.
        let _ = state.changes.send(change);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All blocks are gone.
pub(super) fn cleared() -> KvBlockEvent {
    KvBlockEvent {
        event: Some(kv_block_event::Event::Cleared(true)),
    }
}

fn stored(block: kv_block_event::Stored) -> KvBlockEvent {
    KvBlockEvent {
        event: Some(kv_block_event::Event::Stored(block)),
    }
}
