//! Recordings of the whole process, and what may not happen beside one.
//!
//! A recording is its thread's own affair, but for calls that wait for the whole device: creating and destroying a handle of
//! cuBLASLt does, giving back what a device holds may, and a recording of any other thread then fails at its next call. So
//! these wait until nobody records.

use crate::cuda::tally::{Counted, Tally};

static UNDER_WAY: Tally = Tally::new();

/// Says that a recording is under way, until what is returned is dropped. Ranks that record wait for one another, so this
/// waits for nobody.
pub(super) fn begin() -> Counted {
    UNDER_WAY.add()
}

/// Runs `call` while nobody records.
pub(super) fn beside_none<T>(call: impl FnOnce() -> T) -> T {
    let _nobody_begins = UNDER_WAY.none();
    call()
}
