//! Weights on their way to the GPU: several threads copy from files into pinned memory, from where the GPU fetches them.
//!
//! Who asks for an upload does not wait for it; every launch does (`Device::settle`), which is one look at a flag once all
//! has arrived.

use std::{
    collections::VecDeque,
    ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use cudarc::driver::{result, sys};

use crate::{
    backend::BackendError,
    cuda::{
        DEVICE,
        device::{Device, DeviceMemory, check, failed},
    },
    tensor::SharedBytes,
};

/// Threads that copy; one alone does not reach what a GPU's bus can take.
const MOST_READERS: usize = 8;
/// Pinned memory of each: one part is filled while the GPU fetches the other.
const SLOTS: usize = 2;
const SLOT_BYTES: usize = 4 << 20;
/// Pieces that may wait for a reader.
const MOST_WAITING: usize = 64;
/// Below, a copy in the order of the main stream is as quick.
const SMALL_BYTES: usize = 1 << 20;

/// The readers of one GPU, started by the first upload.
pub(super) struct Uploads {
    shared: Arc<Shared>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    context: sys::CUcontext,
    stream: sys::CUstream,
    queue: Mutex<Queue>,
    /// A piece waits, or none will come.
    came: Condvar,
    /// A piece is no longer waited for.
    left: Condvar,
    /// Whether something was asked for that nobody has awaited.
    unsettled: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Piece>,
    /// Pieces that readers have in hand.
    read: usize,
    failure: Option<String>,
    closed: bool,
}

/// At most [`SLOT_BYTES`] of `bytes`.
struct Piece {
    bytes: SharedBytes,
    start: usize,
    len: usize,
    to: u64,
}

// SAFETY: the driver's handles may be used from any thread (each makes the context current before).
unsafe impl Send for Shared {}
// SAFETY: as above; everything else is behind a lock.
unsafe impl Sync for Shared {}

impl Device {
    /// Copies `bytes` to `offset` of `to`, which nothing else writes: large ones by the readers. It is there when
    /// [`Self::settle`] returns.
    pub(super) fn upload_weight(
        &self,
        bytes: &SharedBytes,
        to: &DeviceMemory,
        offset: usize,
    ) -> Result<(), BackendError> {
        if bytes.len() < SMALL_BYTES {
            return self.upload(bytes, to, offset);
        }
        to.check_range(offset, bytes.len())?;
        self.uploads.start()?;
        for start in (0..bytes.len()).step_by(SLOT_BYTES) {
            self.uploads.shared.push(Piece {
                bytes: bytes.clone(),
                start,
                len: SLOT_BYTES.min(bytes.len() - start),
                to: to.address() + (offset + start) as u64,
            });
        }
        Ok(())
    }

    /// Waits until every upload is there.
    pub(super) fn settle(&self) -> Result<(), BackendError> {
        self.uploads.shared.settle()
    }
}

impl Uploads {
    /// The context is current.
    pub(super) fn new(context: sys::CUcontext) -> Result<Self, BackendError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| failed("cuStreamCreate", &error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                context,
                stream,
                queue: Mutex::default(),
                came: Condvar::new(),
                left: Condvar::new(),
                unsettled: AtomicBool::new(false),
            }),
            readers: Mutex::default(),
        })
    }

    fn start(&self) -> Result<(), BackendError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if !readers.is_empty() {
            return Ok(());
        }
        let count = thread::available_parallelism().map_or(1, Into::into);
        for _ in 0..count.min(MOST_READERS) {
            let shared = Arc::clone(&self.shared);
            let reader = thread::Builder::new()
                .name("weights".to_owned())
                .spawn(move || shared.read());
            readers.push(reader.map_err(|error| BackendError::Device {
                device: DEVICE,
                what: format!("no thread to read weights: {error}"),
            })?);
        }
        Ok(())
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.came.notify_all();
        let readers = self.readers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.drain(..) {
            // One that has panicked has told so.
            let _ = reader.join();
        }
        if self.shared.bind().is_ok() {
            // SAFETY: created by `new`; no reader is left that uses it.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.shared.stream) };
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self) -> Result<(), BackendError> {
        // SAFETY: the context lives as long as the device, and the device as long as its readers.
        let bound = unsafe { result::ctx::set_current(self.context) };
        bound.map_err(|error| failed("cuCtxSetCurrent", &error))
    }

    fn push(&self, piece: Piece) {
        let full = |queue: &mut Queue| queue.waiting.len() >= MOST_WAITING;
        let queue = self.left.wait_while(self.lock(), full);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        if queue.failure.is_none() {
            queue.waiting.push_back(piece);
        }
        self.unsettled.store(true, Ordering::Release);
        self.came.notify_one();
    }

    fn settle(&self) -> Result<(), BackendError> {
        if !self.unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        let busy = |queue: &mut Queue| !queue.waiting.is_empty() || queue.read > 0;
        let queue = self.left.wait_while(self.lock(), busy);
        let queue = queue.unwrap_or_else(PoisonError::into_inner);
        self.bind()?;
        // SAFETY: the stream lives as long as this.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream)
        })?;
        if let Some(failure) = &queue.failure {
            return Err(BackendError::Device {
                device: DEVICE,
                what: failure.clone(),
            });
        }
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    /// A reader's life.
    fn read(&self) {
        let mut slots = self.bind().and_then(|()| Slots::alloc());
        while let Some(piece) = self.take() {
            // Also if it panics nobody waits for this piece any longer.
            let mut in_hand = InHand {
                shared: self,
                result: None,
            };
            let sent = match &mut slots {
                Ok(slots) => slots.send(&piece, self.stream),
                Err(error) => Err(BackendError::Device {
                    device: DEVICE,
                    what: error.to_string(),
                }),
            };
            in_hand.result = Some(sent);
        }
    }

    /// The next piece; none when there will be none.
    fn take(&self) -> Option<Piece> {
        let empty = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        let queue = self.came.wait_while(self.lock(), empty);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        let piece = queue.waiting.pop_front()?;
        queue.read += 1;
        Some(piece)
    }
}

/// A piece that a reader works on.
struct InHand<'a> {
    shared: &'a Shared,
    result: Option<Result<(), BackendError>>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.read -= 1;
        let failure = match self.result.take() {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("a thread that read weights panicked".to_owned()),
        };
        if failure.is_some() {
            // Nobody needs the rest, and there may be no reader left.
            queue.waiting.clear();
            queue.failure = queue.failure.take().or(failure);
        }
        self.shared.left.notify_all();
    }
}

/// Pinned memory, and what says that the GPU has fetched what was in it.
struct Slots {
    memory: *mut u8,
    fetched: [sys::CUevent; SLOTS],
    next: usize,
}

impl Slots {
    fn alloc() -> Result<Self, BackendError> {
        // SAFETY: the memory is used through this alone, and freed with it.
        let memory = unsafe { result::malloc_host(SLOTS * SLOT_BYTES, 0) };
        let mut slots = Self {
            memory: memory.map_err(|error| failed("cuMemHostAlloc", &error))?.cast(),
            fetched: [ptr::null_mut(); SLOTS],
            next: 0,
        };
        for event in &mut slots.fetched {
            *event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|error| failed("cuEventCreate", &error))?;
        }
        Ok(slots)
    }

    fn send(&mut self, piece: &Piece, stream: sys::CUstream) -> Result<(), BackendError> {
        let event = self.fetched[self.next];
        // SAFETY: the event lives as long as this; one that was never recorded is over.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event) })?;
        // SAFETY: a piece has at most as many bytes as a slot, which the GPU has fetched and nobody else uses.
        let slot =
            unsafe { std::slice::from_raw_parts_mut(self.memory.add(self.next * SLOT_BYTES), piece.len) };
        piece.bytes.copy_to(piece.start, slot);
        self.next = (self.next + 1) % SLOTS;
        // SAFETY: the target was checked to be long enough, and waits for what is on its way before it is freed; the slot
        // is not written before the event.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(piece.to, slot.as_ptr().cast(), piece.len, stream)
        })?;
        // SAFETY: both live as long as this.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event, stream) })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: allocated by `alloc` in this thread, whose context is current; the GPU is waited for.
        unsafe {
            for event in self.fetched.into_iter().filter(|event| !event.is_null()) {
                let _ = sys::cuEventSynchronize(event);
                let _ = result::event::destroy(event);
            }
            let _ = result::free_host(self.memory.cast());
        }
    }
}
