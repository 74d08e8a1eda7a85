//! Threads of one process that exchange values in turns.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{backend::BackendError, ops::Rank};

/// Where the ranks of one model exchange values.
pub(crate) struct Exchange<T> {
    device: &'static str,
    patience: Duration,
    turn: Mutex<Turn<T>>,
    changed: Condvar,
}

/// Every rank gives, then every rank takes.
struct Turn<T> {
    given: Vec<Option<T>>,
    all: Option<Arc<Vec<T>>>,
    taken: usize,
    left: Option<usize>,
}

impl<T> Exchange<T> {
    /// Between `count` ranks, none of which waits longer than `patience`; `device` is for messages.
    pub(crate) fn new(device: &'static str, count: usize, patience: Duration) -> Self {
        Self {
            device,
            patience,
            turn: Mutex::new(Turn {
                given: (0..count).map(|_| None).collect(),
                all: None,
                taken: 0,
                left: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Ends every exchange, also those to come.
    pub(crate) fn leave(&self, rank: Rank) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.left.get_or_insert(rank.index);
        self.changed.notify_all();
    }

    /// What every rank gives in this turn, in their order.
    ///
    /// # Errors
    /// If a rank has left, or does not come.
    pub(crate) fn exchange(&self, rank: Rank, value: T) -> Result<Arc<Vec<T>>, BackendError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // The turn before is over once every rank has taken.
        let mut turn = self.wait_while(rank, turn, |turn| turn.all.is_some())?;
        turn.given[rank.index] = Some(value);
        if turn.given.iter().all(Option::is_some) {
            turn.all = Some(Arc::new(turn.given.iter_mut().filter_map(Option::take).collect()));
            self.changed.notify_all();
        }
        let mut turn = self.wait_while(rank, turn, |turn| turn.all.is_none())?;
        let all = turn
            .all
            .clone()
            .expect("it was waited for, and is there until every rank has taken it");
        turn.taken += 1;
        if turn.taken == rank.count {
            (turn.all, turn.taken) = (None, 0);
            self.changed.notify_all();
        }
        Ok(all)
    }

    fn wait_while<'a>(
        &self,
        rank: Rank,
        turn: MutexGuard<'a, Turn<T>>,
        waits: impl Fn(&Turn<T>) -> bool,
    ) -> Result<MutexGuard<'a, Turn<T>>, BackendError> {
        let failed = |what| BackendError::Device {
            device: self.device,
            what,
        };
        let goes_on = |turn: &mut Turn<T>| turn.left.is_none() && waits(turn);
        let waited = self.changed.wait_timeout_while(turn, self.patience, goes_on);
        let (turn, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = turn.left {
            return Err(failed(format!("rank {left} has left")));
        }
        match waits(&turn) {
            true => Err(failed(format!(
                "rank {} has waited {:?} for another",
                rank.index, self.patience
            ))),
            false => Ok(turn),
        }
    }
}
