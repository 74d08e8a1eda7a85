//! How many of something this process has, for who waits until there is none.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(super) struct Tally {
    count: Mutex<usize>,
    none: Condvar,
}

/// One of them, until it is dropped.
pub(super) struct Counted(&'static Tally);

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            count: Mutex::new(0),
            none: Condvar::new(),
        }
    }

    /// Never waits for another, nor for somebody who waits for none.
    pub(super) fn add(&'static self) -> Counted {
        *self.lock() += 1;
        Counted(self)
    }

    /// Waits for none; as long as what it returns is held, none is added.
    pub(super) fn none(&self) -> MutexGuard<'_, usize> {
        let none = self.none.wait_while(self.lock(), |count| *count > 0);
        none.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is none within `patience`.
    pub(super) fn none_within(&self, patience: Duration) -> bool {
        let none = self
            .none
            .wait_timeout_while(self.lock(), patience, |count| *count > 0);
        let (count, _outcome) = none.unwrap_or_else(PoisonError::into_inner);
        *count == 0
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn who_waits_for_none_waits_for_all_of_them() {
        static TALLY: Tally = Tally::new();
        let (first, second) = (TALLY.add(), TALLY.add());
        let (done, outcome) = mpsc::channel();
        let waiting = thread::spawn(move || {
            let _none = TALLY.none();
            done.send(()).expect("a receiver");
        });
        drop(first);
        // Another may come although somebody waits.
        let third = TALLY.add();
        drop(second);
        assert!(outcome.recv_timeout(Duration::from_millis(50)).is_err());
        drop(third);
        outcome.recv_timeout(Duration::from_secs(10)).expect("its turn");
        waiting.join().expect("an end");
    }

    #[test]
    fn patience_ends() {
        static TALLY: Tally = Tally::new();
        let one = TALLY.add();
        assert!(!TALLY.none_within(Duration::from_millis(5)));
        let ends = thread::spawn(move || drop(one));
        assert!(TALLY.none_within(Duration::from_secs(10)));
        ends.join().expect("an end");
    }
}
