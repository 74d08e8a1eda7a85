//! A step under way: when it began and ended on the device, and what it has drawn on its way to the host.

use std::{ptr, slice, sync::Arc, time::Duration};

use cudarc::driver::{result, sys};

use crate::{
    backend::BackendError,
    cuda::{
        CudaIndices,
        buffer::spread,
        device::{Device, check, failed},
    },
};

/// Indices that a step's memory has room for at least.
const MIN_ROOM: usize = 256;

/// Two events and pinned memory, made when first used.
#[derive(Default)]
pub struct CudaStep(Option<Open>);

struct Open {
    device: Arc<Device>,
    begun: sys::CUevent,
    ended: sys::CUevent,
    drawn: Pinned,
    count: usize,
}

// SAFETY: handles of the driver, used by one thread at a time.
unsafe impl Send for Open {}

/// Memory that the device writes while the host does something else.
struct Pinned {
    memory: *mut u32,
    room: usize,
}

impl CudaStep {
    /// What is asked of the stream from here on is the step.
    pub(super) fn begin(&mut self, device: &Arc<Device>) -> Result<(), BackendError> {
        device.bind()?;
        let open = match &mut self.0 {
            Some(open) => open,
            None => self.0.insert(Open::new(device)?),
        };
        record(device, open.begun)
    }

    /// Nothing more is asked for; the first `count` of `drawn` follow what was.
    pub(super) fn end(
        &mut self,
        device: &Arc<Device>,
        drawn: &CudaIndices,
        count: usize,
    ) -> Result<(), BackendError> {
        drawn.check("end_step: drawn", count)?;
        let Some(open) = &mut self.0 else {
            return Err(not_begun());
        };
        device.bind()?;
        open.count = count;
        if count > 0 {
            open.drawn.grow(device, count)?;
            // The memory is neither read nor freed before the event that follows has come.
            let to = open.drawn.memory.expose_provenance() as u64;
            spread(device, drawn.address(), &[(to, count)])?;
        }
        record(device, open.ended)
    }

    /// Waits for the end. How long the device took.
    pub(super) fn finish(&mut self, tokens: &mut Vec<u32>) -> Result<Duration, BackendError> {
        let Some(open) = &mut self.0 else {
            return Err(not_begun());
        };
        // SAFETY: the event was recorded.
        unsafe { open.device.wait_for(open.ended) }?;
        let mut ms = 0.0;
        // SAFETY: both events were recorded and have come.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime_v2(&raw mut ms, open.begun, open.ended)
        })?;
        tokens.clear();
        if open.count > 0 {
            // SAFETY: the copy of `count` indices has ended with the event.
            tokens.extend_from_slice(unsafe { slice::from_raw_parts(open.drawn.memory, open.count) });
        }
        Ok(Duration::from_secs_f32(ms.max(0.0) / 1e3))
    }
}

impl Open {
    fn new(device: &Arc<Device>) -> Result<Self, BackendError> {
        let event = || {
            let mut event = ptr::null_mut();
            // SAFETY: a context is current.
            check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, 0) })?;
            Ok::<_, BackendError>(event)
        };
        let mut drawn = Pinned {
            memory: ptr::null_mut(),
            room: 0,
        };
        drawn.grow(device, MIN_ROOM)?;
        Ok(Self {
            begun: event()?,
            ended: event()?,
            device: Arc::clone(device),
            drawn,
            count: 0,
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.device.synchronize().is_ok() {
            // SAFETY: made by `new`, given back once, and nothing on the stream uses them any more.
            unsafe {
                let _ = sys::cuEventDestroy_v2(self.begun);
                let _ = sys::cuEventDestroy_v2(self.ended);
                let _ = result::free_host(self.drawn.memory.cast());
            }
        }
    }
}

impl Pinned {
    fn grow(&mut self, device: &Device, count: usize) -> Result<(), BackendError> {
        if count <= self.room {
            return Ok(());
        }
        if !self.memory.is_null() {
            device.synchronize()?;
            // SAFETY: allocated below, and no copy into it is under way.
            let freed = unsafe { result::free_host(self.memory.cast()) };
            (self.memory, self.room) = (ptr::null_mut(), 0);
            freed.map_err(|error| failed("cuMemFreeHost", &error))?;
        }
        let room = count.next_power_of_two();
        // SAFETY: the memory is used as `room` indices, after a copy has written them.
        let memory = unsafe { result::malloc_host(room * 4, 0) };
        self.memory = memory.map_err(|error| failed("cuMemHostAlloc", &error))?.cast();
        self.room = room;
        Ok(())
    }
}

fn record(device: &Device, event: sys::CUevent) -> Result<(), BackendError> {
    // SAFETY: event and stream are of the same context.
    check("cuEventRecord", unsafe {
        sys::cuEventRecord(event, device.stream)
    })
}

fn not_begun() -> BackendError {
    BackendError::Shape("a step ends before it has begun".to_owned())
}
