//! Events.

use std::{
    ffi::c_uint,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Instant,
};

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};

use super::{
    answer::{Answer, Handles, code, give, lock},
    device::{Device, current},
    stream::{Task, stream},
};

pub(super) struct Event {
    device: Arc<Device>,
    is_timed: bool,
    /// Of the last time that it was recorded.
    mark: Mutex<Option<Arc<Mark>>>,
}

/// A place in a stream.
#[derive(Default)]
pub(super) struct Mark {
    at: Mutex<Option<Instant>>,
    came: Condvar,
}

static EVENTS: Handles<Event> = Handles::new();

impl Mark {
    pub(super) fn set(&self) {
        *lock(&self.at) = Some(Instant::now());
        self.came.notify_all();
    }

    fn at(&self) -> Option<Instant> {
        *lock(&self.at)
    }

    fn wait(&self) {
        let came = self.came.wait_while(lock(&self.at), |at| at.is_none());
        drop(came.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Event {
    fn mark(&self) -> Option<Arc<Mark>> {
        lock(&self.mark).clone()
    }

    /// When it came, for who may ask for that.
    fn time(&self) -> Answer<Instant> {
        let mark = self.mark().filter(|_| self.is_timed);
        let mark = mark.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        mark.at().ok_or(CUresult::CUDA_ERROR_NOT_READY)
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventCreate(handle: *mut CUevent, flags: c_uint) -> CUresult {
    let create = |device| {
        Arc::new(Event {
            device,
            is_timed: flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint == 0,
            mark: Mutex::default(),
        })
    };
    // SAFETY: the caller's.
    code(current().and_then(|device| unsafe { give(handle, EVENTS.add(create(device))) }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventDestroy_v2(handle: CUevent) -> CUresult {
    code(EVENTS.remove(handle).map(drop))
}

/// Not beside a recording: its events would be no places in time.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecord(handle: CUevent, of: CUstream) -> CUresult {
    let record = || {
        let (event, stream) = (EVENTS.get(handle)?, stream(of)?);
        if !Arc::ptr_eq(&event.device, &stream.device) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if let Some(capture) = &mut *lock(&stream.capture) {
            return Err(capture.spoil());
        }
        let mark = Arc::new(Mark::default());
        *lock(&event.mark) = Some(Arc::clone(&mark));
        stream.push(Task::Mark(mark));
        Ok(())
    };
    code(record())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventQuery(handle: CUevent) -> CUresult {
    let look = |event: Arc<Event>| match event.mark() {
        Some(mark) if mark.at().is_none() => Err(CUresult::CUDA_ERROR_NOT_READY),
        _ => event.device.check(),
    };
    code(EVENTS.get(handle).and_then(look))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventSynchronize(handle: CUevent) -> CUresult {
    let wait = |event: Arc<Event>| {
        if let Some(mark) = event.mark() {
            mark.wait();
        }
        event.device.check()
    };
    code(EVENTS.get(handle).and_then(wait))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventElapsedTime_v2(
    ms: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    let elapsed = || {
        let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
        start.device.check()?;
        let (start, end) = (start.time()?, end.time()?);
        // SAFETY: the caller's.
        unsafe { give(ms, end.saturating_duration_since(start).as_secs_f32() * 1e3) }
    };
    code(elapsed())
}
