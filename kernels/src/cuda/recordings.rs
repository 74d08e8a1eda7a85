//! Recordings of the whole process, and what may not happen beside one.
//!
//! A recording is its thread's own affair, but for calls that wait for the whole device: creating and destroying a handle of
//! cuBLASLt does, giving back what a device holds may, and a recording of any other thread then fails at its next call. So
//! these wait until nobody records.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

static UNDER_WAY: Mutex<usize> = Mutex::new(0);
static NONE: Condvar = Condvar::new();

/// A recording under way, until it is dropped.
pub(super) struct Recording(());

impl Recording {
    /// Never waits for another recording, nor for somebody who waits for those to end: ranks that record wait for one
    /// another.
    pub(super) fn begin() -> Self {
        *lock() += 1;
        Self(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut under_way = lock();
        *under_way -= 1;
        if *under_way == 0 {
            NONE.notify_all();
        }
    }
}

/// Runs `call` while nobody records.
pub(super) fn beside_none<T>(call: impl FnOnce() -> T) -> T {
    let under_way = NONE.wait_while(lock(), |under_way| *under_way > 0);
    let _nobody_begins = under_way.unwrap_or_else(PoisonError::into_inner);
    call()
}

fn lock() -> MutexGuard<'static, usize> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn what_may_not_happen_beside_a_recording_waits_for_all_of_them() {
        let (first, second) = (Recording::begin(), Recording::begin());
        let (done, outcome) = mpsc::channel();
        let waiting = thread::spawn(move || beside_none(|| done.send(()).expect("a receiver")));
        drop(first);
        // Another may begin although somebody waits.
        let third = Recording::begin();
        drop(second);
        assert!(outcome.recv_timeout(Duration::from_millis(50)).is_err());
        drop(third);
        outcome.recv_timeout(Duration::from_secs(10)).expect("its turn");
        waiting.join().expect("an end");
    }
}
