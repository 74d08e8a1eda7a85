//! Memory of products with quantized weights.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    backend::BackendError,
    cuda::device::{Device, DeviceMemory},
};

/// Memory that is needed while a product runs, as much as the largest of the weights wants: it is there before the
/// first step, so that nothing moves that a recorded step has an address of.
#[derive(Default)]
pub(super) struct Scratch {
    /// For a matrix in the element type.
    pub(super) dense: Mutex<Option<DeviceMemory>>,
    /// For rows of x whose columns are in a weight's order.
    pub(super) ordered: Mutex<Option<DeviceMemory>>,
}

/// Sees to it that there are at least `bytes`: while weights are loaded.
pub(super) fn reserve(
    device: &Arc<Device>,
    scratch: &Mutex<Option<DeviceMemory>>,
    bytes: usize,
) -> Result<(), BackendError> {
    let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
    if scratch.as_ref().is_none_or(|memory| memory.size() < bytes) {
        *scratch = None;
        *scratch = Some(device.alloc(bytes, "scratch memory of quantized weights")?);
    }
    Ok(())
}

/// Where the memory is that was reserved.
pub(super) fn address(scratch: &Mutex<Option<DeviceMemory>>) -> u64 {
    let scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
    scratch.as_ref().map_or(0, DeviceMemory::address)
}
