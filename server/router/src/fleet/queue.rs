//! Requests of one model that wait: for a replica to become ready, or to have room.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// A bounded queue in the order of arrival. Waiters decide for themselves whether they can go on; the queue says
/// whose turn it is.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    limit: usize,
    next_number: AtomicU64,
    /// Length of `waiting`, readable without its lock, and what its requests are expected to cost.
    len: AtomicUsize,
    tokens: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiter>>,
    /// Told when a request waits and none did before.
    begun: Arc<Notify>,
}

#[derive(Debug)]
struct Waiter {
    notify: Arc<Notify>,
    /// It cannot use the replicas that others could, so others may pass.
    stands_aside: bool,
}

impl WaitQueue {
    pub(crate) fn new(limit: usize, begun: Arc<Notify>) -> Self {
        Self {
            limit,
            next_number: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            tokens: AtomicU64::new(0),
            waiting: Mutex::default(),
            begun,
        }
    }

    /// A number for a request that arrives now; numbers are the order of the queue.
    pub(crate) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a newcomer would overtake somebody.
    pub(crate) fn has_waiters(&self) -> bool {
        self.len() > 0 && self.lock().values().any(|waiter| !waiter.stands_aside)
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// What those that wait are expected to cost.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// How many numbers were given.
    pub(crate) fn arrived(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    /// Takes a place in the queue for a request of so many tokens, or `None` when all are taken.
    pub(crate) fn join(self: &Arc<Self>, number: u64, tokens: u64) -> Option<Ticket> {
        let mut waiting = self.lock();
        if waiting.len() >= self.limit {
            return None;
        }
        let notify = Arc::new(Notify::new());
        let waiter = Waiter {
            notify: notify.clone(),
            stands_aside: false,
        };
        waiting.insert(number, waiter);
        self.len.store(waiting.len(), Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        if waiting.len() == 1 {
            self.begun.notify_waiters();
        }
        Some(Ticket {
            queue: self.clone(),
            number,
            tokens,
            notify,
        })
    }

    /// Something changed that may let one request go on.
    pub(crate) fn wake_head(&self) {
        if self.len() == 0 {
            return;
        }
        if let Some(head) = self.lock().values().find(|waiter| !waiter.stands_aside) {
            head.notify.notify_one();
        }
    }

    /// Something changed that may end every wait.
    pub(crate) fn wake_all(&self) {
        if self.len() == 0 {
            return;
        }
        for waiter in self.lock().values() {
            waiter.notify.notify_one();
        }
    }

    /// Nothing in a poisoned lock is half-written.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue. Dropping it leaves the queue and gives the turn to the next.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<WaitQueue>,
    number: u64,
    tokens: u64,
    notify: Arc<Notify>,
}

impl Ticket {
    /// Whether nobody is before it.
    pub(crate) fn is_first(&self) -> bool {
        let waiting = self.queue.lock();
        let before = waiting.range(..self.number);
        before.into_iter().all(|(_, waiter)| waiter.stands_aside)
    }

    /// Lets others pass, or takes the turn back.
    pub(crate) fn stand_aside(&self, stands_aside: bool) {
        let changed = {
            let mut waiting = self.queue.lock();
            waiting.get_mut(&self.number).is_some_and(|waiter| {
                std::mem::replace(&mut waiter.stands_aside, stands_aside) != stands_aside
            })
        };
        if changed && stands_aside {
            self.queue.wake_head();
        }
    }

    /// Waits for a change; one that came since the last wait counts.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.remove(&self.number);
        self.queue.len.store(waiting.len(), Ordering::Relaxed);
        self.queue.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        drop(waiting);
        self.queue.wake_head();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn woken(ticket: &Ticket) -> bool {
        ticket.changed().now_or_never().is_some()
    }

    #[test]
    fn the_turn_passes_in_the_order_of_arrival() {
        let queue = Arc::new(WaitQueue::new(8, Arc::default()));
        let late_number = queue.number() + 1;
        let late = queue.join(late_number, 10).expect("room");
        let early = queue.join(0, 10).expect("room");
        assert!(early.is_first() && !late.is_first());
        queue.wake_head();
        assert!(woken(&early) && !woken(&late));
        drop(early);
        assert!(late.is_first() && woken(&late));
        drop(late);
        assert!(!queue.has_waiters());
    }

    #[test]
    fn a_change_before_the_wait_is_not_lost() {
        let queue = Arc::new(WaitQueue::new(8, Arc::default()));
        let ticket = queue.join(queue.number(), 10).expect("room");
        queue.wake_all();
        assert!(woken(&ticket) && !woken(&ticket));
    }

    #[test]
    fn one_more_than_the_bound_gets_no_place() {
        let queue = Arc::new(WaitQueue::new(1, Arc::default()));
        let first = queue.join(queue.number(), 10);
        assert_eq!((queue.len(), queue.tokens()), (1, 10));
        assert!(first.is_some() && queue.join(queue.number(), 10).is_none());
        drop(first);
        assert!(queue.join(queue.number(), 10).is_some());
    }

    #[test]
    fn one_that_stands_aside_lets_the_others_pass() {
        let queue = Arc::new(WaitQueue::new(8, Arc::default()));
        let first = queue.join(queue.number(), 10).expect("room");
        first.stand_aside(true);
        assert!(!queue.has_waiters());
        let second = queue.join(queue.number(), 10).expect("room");
        assert!(second.is_first());
        queue.wake_head();
        assert!(woken(&second) && !woken(&first));
        first.stand_aside(false);
        assert!(!second.is_first());
    }
}
