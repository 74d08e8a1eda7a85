//! Streams: each does in a thread of its own what it was asked for, one after the other.

use std::{
    collections::VecDeque,
    ffi::c_uint,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use cudarc::driver::sys::{CUresult, CUstream};

use super::{
    answer::{Answer, Handles, code, give, lock},
    capture::Capture,
    device::{Device, current},
    event::Mark,
};

/// Beyond that, who asks for more waits, as with a GPU's driver.
const MOST_WAITING: usize = 1024;

/// What is done in a stream; the error is what the context fails with.
pub(crate) type Work = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Work, or an event that the stream comes to even where the context has failed.
pub(super) enum Task {
    Work(Work),
    Mark(Arc<Mark>),
}

pub(crate) struct Stream {
    pub(super) device: Arc<Device>,
    /// Locked before the queue.
    pub(super) capture: Mutex<Option<Capture>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Task>,
    asked: u64,
    done: u64,
    closed: bool,
}

static STREAMS: Handles<Stream> = Handles::new();

/// The stream of a handle, if its context has had no fault.
pub(crate) fn stream<H>(handle: *mut H) -> Answer<Arc<Stream>> {
    let stream = STREAMS.get(handle)?;
    stream.device.check()?;
    Ok(stream)
}

impl Stream {
    pub(super) fn start(device: Arc<Device>) -> Answer<Arc<Self>> {
        let stream = Arc::new(Self {
            device,
            capture: Mutex::default(),
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Arc::clone(&stream);
        let started = thread::Builder::new()
            .name("emulated stream".to_owned())
            .spawn(move || worker.work());
        started.map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        lock(&stream.device.streams).push(Arc::downgrade(&stream));
        Ok(stream)
    }

    /// Does `work` after everything asked before, or records it.
    pub(crate) fn ask(&self, work: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Answer {
        let mut capture = lock(&self.capture);
        match &mut *capture {
            Some(capture) => capture.record(Arc::new(work)),
            None => {
                self.push(Task::Work(Arc::new(work)));
                Ok(())
            }
        }
    }

    pub(super) fn push(&self, task: Task) {
        let full = |queue: &mut Queue| queue.waiting.len() >= MOST_WAITING;
        let mut queue = self.wait_while(full);
        queue.asked += 1;
        queue.waiting.push_back(task);
        self.changed.notify_all();
    }

    /// Waits until what was asked for until now is done.
    pub(super) fn drain(&self) {
        let asked = lock(&self.queue).asked;
        drop(self.wait_while(|queue| queue.done < asked));
    }

    fn is_idle(&self) -> bool {
        let queue = lock(&self.queue);
        queue.done == queue.asked
    }

    fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// The thread's life: until the stream is closed, and nothing is left to do.
    fn work(&self) {
        loop {
            let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
            let Some(task) = self.wait_while(idle).waiting.pop_front() else {
                return;
            };
            match task {
                Task::Mark(mark) => mark.set(),
                Task::Work(_) if self.device.has_failed() => {}
                Task::Work(work) => {
                    if let Err(why) = done(&work) {
                        self.device.fail(&why);
                    }
                }
            }
            lock(&self.queue).done += 1;
            self.changed.notify_all();
        }
    }

    fn wait_while(&self, condition: impl FnMut(&mut Queue) -> bool) -> MutexGuard<'_, Queue> {
        let queue = self.changed.wait_while(lock(&self.queue), condition);
        queue.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waiting for a stream that records can never end: that spoils the recording.
    fn forbid_capture(&self) -> Answer {
        match &mut *lock(&self.capture) {
            Some(capture) => Err(capture.spoil()),
            None => Ok(()),
        }
    }
}

/// A panic, which is the emulator's own fault, is one of the device: nobody may wait for ever for what is asked for next.
fn done(work: &Work) -> Result<(), String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| work()));
    outcome.unwrap_or_else(|_| Err("the emulator panicked".to_owned()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreate(handle: *mut CUstream, _flags: c_uint) -> CUresult {
    let created = current().and_then(Stream::start);
    // SAFETY: the caller's.
    code(created.and_then(|stream| unsafe { give(handle, STREAMS.add(stream)) }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamDestroy_v2(handle: CUstream) -> CUresult {
    code(STREAMS.remove(handle).map(|stream| stream.close()))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamSynchronize(handle: CUstream) -> CUresult {
    let wait = |stream: Arc<Stream>| {
        stream.forbid_capture()?;
        stream.drain();
        stream.device.check()
    };
    code(stream(handle).and_then(wait))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(handle: CUstream) -> CUresult {
    let look = |stream: Arc<Stream>| {
        stream.forbid_capture()?;
        match stream.is_idle() {
            true => stream.device.check(),
            false => Err(CUresult::CUDA_ERROR_NOT_READY),
        }
    };
    code(stream(handle).and_then(look))
}
