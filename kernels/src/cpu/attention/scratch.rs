//! Working memory of attention, kept by each thread from task to task.

use std::cell::Cell;

use crate::cpu::{AlignedBuf, lanes::LANES};

thread_local! {
    /// Buffers not in use. A stack: a thread that coordinates a launch uses one, and another for its tasks.
    static BUFFERS: Cell<Vec<AlignedBuf<f32>>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of unspecified content, 64-byte aligned.
///
/// # Panics
/// If there is no memory for them.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = match take() {
        Some(buffer) if buffer.len() >= len => buffer,
        _ => AlignedBuf::zeroed(len).expect("memory for a tile of attention, some hundred KiB"),
    };
    let result = f(&mut buffer[..len]);
    let mut buffers = BUFFERS.take();
    buffers.push(buffer);
    BUFFERS.set(buffers);
    result
}

fn take() -> Option<AlignedBuf<f32>> {
    let mut buffers = BUFFERS.take();
    let buffer = buffers.pop();
    BUFFERS.set(buffers);
    buffer
}

/// `len` rounded up to whole vectors.
pub(super) const fn padded(len: usize) -> usize {
    len.next_multiple_of(LANES)
}
