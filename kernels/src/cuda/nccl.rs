//! NCCL, for GPUs that do not reach one another's memory; loaded when it is needed.
//!
//! See <https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cudarc::driver::sys;
use libloading::Library;

use crate::{
    backend::BackendError,
    cuda::{
        CudaBuffer, CudaIndices, CudaUnavailable, DEVICE, Element,
        device::{Device, check, failed},
    },
    ops::Rank,
};

/// As its packages name it; the bindings of `cudarc` look for other names.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// A GPU may wait so long for others, a host that is busy included.
const PATIENCE: Duration = Duration::from_secs(30);
/// A step that takes longer is looked at less often.
const SPIN: Duration = Duration::from_millis(50);

const SUM: c_int = 0;
/// `ncclUint32`.
const UNSIGNED: c_int = 3;
const SUCCESS: c_int = 0;

type Comm = *mut c_void;
type Stream = sys::CUstream;

/// The functions that are used, as nccl.h declares them.
struct Functions {
    comm_init_all: unsafe extern "C" fn(*mut Comm, c_int, *const c_int) -> c_int,
    comm_abort: unsafe extern "C" fn(Comm) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    recv: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    _library: Library,
}

impl Functions {
    /// The library, which stays loaded; or why it cannot be.
    fn loaded() -> Result<&'static Self, CudaUnavailable> {
        static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| Self::load().map_err(|error| error.to_string()));
        loaded
            .as_ref()
            .map_err(|error| CudaUnavailable::from(nccl_failed("loading NCCL", error)))
    }

    fn load() -> Result<Self, libloading::Error> {
        let open = |name: &str| {
            // SAFETY: NCCL's initializers may run anywhere.
            unsafe { Library::new(name) }
        };
        let library = open(NAMES[0]).or_else(|error| open(NAMES[1]).map_err(|_| error))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is that of the function in nccl.h, which has not changed since 2.7.
                *unsafe { library.get($name) }?
            };
        }
        Ok(Self {
            comm_init_all: function!(b"ncclCommInitAll\0"),
            comm_abort: function!(b"ncclCommAbort\0"),
            all_reduce: function!(b"ncclAllReduce\0"),
            broadcast: function!(b"ncclBroadcast\0"),
            send: function!(b"ncclSend\0"),
            recv: function!(b"ncclRecv\0"),
            group_start: function!(b"ncclGroupStart\0"),
            group_end: function!(b"ncclGroupEnd\0"),
            error_string: function!(b"ncclGetErrorString\0"),
            _library: library,
        })
    }

    fn check(&self, call: &str, answer: c_int) -> Result<(), BackendError> {
        if answer == SUCCESS {
            return Ok(());
        }
        // SAFETY: it gives a text for every number.
        let text = unsafe { CStr::from_ptr((self.error_string)(answer)) };
        Err(nccl_failed(call, &text.to_string_lossy()))
    }

    /// Calls that begin together: without that, a rank that one thread serves after another would be waited for.
    fn together(&self, calls: impl FnOnce() -> Result<(), BackendError>) -> Result<(), BackendError> {
        // SAFETY: ended below.
        self.check("ncclGroupStart", unsafe { (self.group_start)() })?;
        let called = calls();
        // SAFETY: begun above.
        called.and(self.check("ncclGroupEnd", unsafe { (self.group_end)() }))
    }
}

fn nccl_failed(call: &str, what: &str) -> BackendError {
    BackendError::Device {
        device: DEVICE,
        what: format!("{call}: {what}"),
    }
}

/// A communicator for each rank.
///
/// They are not given back: recorded steps hold on to them, and a process has one group.
pub(super) struct Comms {
    functions: &'static Functions,
    of_rank: Vec<Handle>,
}

/// Used by the thread of its rank.
#[derive(Clone, Copy)]
struct Handle(Comm);

// SAFETY: NCCL lets a communicator be used from any thread, by one at a time.
unsafe impl Send for Handle {}
// SAFETY: each rank's thread uses its own.
unsafe impl Sync for Handle {}

impl Comms {
    /// Connects `devices`, and uses each operation once: what connects lazily could not do so while a step is recorded.
    pub(super) fn connect(devices: &[&Arc<Device>]) -> Result<Self, CudaUnavailable> {
        let functions = Functions::loaded()?;
        let ordinals: Vec<c_int> = devices.iter().map(|device| device.ordinal as c_int).collect();
        let mut comms = vec![std::ptr::null_mut(); devices.len()];
        // SAFETY: there is room for as many communicators as there are ordinals.
        let answer = unsafe {
            (functions.comm_init_all)(comms.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr())
        };
        functions.check("ncclCommInitAll", answer)?;
        let connected = Self {
            functions,
            of_rank: comms.into_iter().map(Handle).collect(),
        };
        connected.try_out(devices)?;
        Ok(connected)
    }

    fn try_out(&self, devices: &[&Arc<Device>]) -> Result<(), BackendError> {
        let count = devices.len();
        let rank = |index| Rank { index, count };
        let mut parts = Vec::new();
        for device in devices {
            parts.push(CudaBuffer::alloc(
                device,
                Element::F32,
                count,
                "what GPUs exchange",
            )?);
        }
        let columns: Vec<_> = (0..count).map(|index| index..index + 1).collect();
        let mut all = CudaBuffer::alloc(devices[0], Element::F32, count, "what GPUs exchange")?;
        self.functions.together(|| {
            let mut ranks = devices.iter().zip(&mut parts).enumerate();
            ranks.try_for_each(|(index, (device, part))| self.all_reduce(device, rank(index), part, 1))
        })?;
        self.functions.together(|| {
            let mut ranks = devices.iter().zip(&parts).enumerate();
            ranks.try_for_each(|(index, (device, part))| {
                self.gather(device, rank(index), part, (1, &columns, count), &mut all)
            })
        })?;
        let mut indices = Vec::new();
        for device in devices {
            indices.push(CudaIndices::alloc(device, 1)?);
        }
        self.functions.together(|| {
            let mut ranks = devices.iter().zip(&mut indices).enumerate();
            ranks.try_for_each(|(index, (device, indices))| self.share(device, rank(index), indices, 1))
        })?;
        devices.iter().try_for_each(|device| device.synchronize())
    }

    /// The first `len` indices of rank 0 on every rank.
    pub(super) fn share(
        &self,
        device: &Device,
        rank: Rank,
        indices: &mut CudaIndices,
        len: usize,
    ) -> Result<(), BackendError> {
        device.bind()?;
        let address = indices.address() as *mut c_void;
        let comm = self.of_rank[rank.index].0;
        // SAFETY: there are `len` indices, as was checked, and they live until the stream has passed, as of every launch.
        let answer =
            unsafe { (self.functions.broadcast)(address, address, len, UNSIGNED, 0, comm, device.stream) };
        self.functions.check("ncclBroadcast", answer)
    }

    /// `x` = the sum of every rank's `x`, over `len` elements. Where there are more than two ranks the order of a sum
    /// depends on where in `x` it lies.
    pub(super) fn all_reduce(
        &self,
        device: &Device,
        rank: Rank,
        x: &mut CudaBuffer,
        len: usize,
    ) -> Result<(), BackendError> {
        device.bind()?;
        let address = x.address() as *mut c_void;
        let comm = self.of_rank[rank.index].0;
        let element = type_of(x.element());
        // SAFETY: `x` has `len` elements, as was checked, and lives until the stream has passed, as of every launch.
        let answer =
            unsafe { (self.functions.all_reduce)(address, address, len, element, SUM, comm, device.stream) };
        self.functions.check("ncclAllReduce", answer)
    }

    /// Puts every rank's f32 `part`, `(rows, its columns)`, into rank 0's `out`, `(rows, total)`.
    pub(super) fn gather(
        &self,
        device: &Device,
        rank: Rank,
        part: &CudaBuffer,
        (rows, columns, total): (usize, &[Range<usize>], usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        device.bind()?;
        let comm = self.of_rank[rank.index].0;
        let (send, recv) = (self.functions.send, self.functions.recv);
        let float = type_of(Element::F32);
        let own = columns[rank.index].len();
        if rank.index > 0 {
            return self.functions.together(|| {
                (0..rows).try_for_each(|row| {
                    let from = part.address() + 4 * (row * own) as u64;
                    // SAFETY: a row of `part`, whose size was checked.
                    let answer = unsafe { send(from as *const c_void, own, float, 0, comm, device.stream) };
                    self.functions.check("ncclSend", answer)
                })
            });
        }
        self.functions.together(|| {
            let others = columns.iter().enumerate().skip(1);
            others.into_iter().try_for_each(|(peer, columns)| {
                (0..rows).try_for_each(|row| {
                    let to = out.address() + 4 * (row * total + columns.start) as u64;
                    // SAFETY: a part of a row of `out`, whose size was checked.
                    let answer = unsafe {
                        recv(
                            to as *mut c_void,
                            columns.len(),
                            float,
                            peer as c_int,
                            comm,
                            device.stream,
                        )
                    };
                    self.functions.check("ncclRecv", answer)
                })
            })
        })?;
        copy_columns(device, part, (rows, &columns[0], total), out)
    }
}

/// Rank 0's own columns.
fn copy_columns(
    device: &Device,
    part: &CudaBuffer,
    (rows, columns, total): (usize, &Range<usize>, usize),
    out: &mut CudaBuffer,
) -> Result<(), BackendError> {
    let copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: std::ptr::null(),
        srcDevice: part.address(),
        srcArray: std::ptr::null_mut(),
        srcPitch: 4 * columns.len(),
        dstXInBytes: 4 * columns.start,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: out.address(),
        dstArray: std::ptr::null_mut(),
        dstPitch: 4 * total,
        WidthInBytes: 4 * columns.len(),
        Height: rows,
    };
    // SAFETY: both ranges were checked; they are of different buffers.
    check("cuMemcpy2DAsync", unsafe {
        sys::cuMemcpy2DAsync_v2(&raw const copy, device.stream)
    })
}

/// `ncclDataType_t`.
fn type_of(element: Element) -> c_int {
    match element {
        Element::F16 => 6,
        Element::F32 => 7,
        Element::Bf16 => 9,
    }
}

/// How the host waits for a GPU whose kernels wait for others: NCCL's own wait for ever.
pub(super) struct Watch {
    functions: &'static Functions,
    comm: Handle,
    left: Arc<AtomicU32>,
    has_aborted: AtomicBool,
}

impl Watch {
    /// Of `rank`; `left` is 0 while every rank is there.
    pub(super) fn new(comms: &Comms, rank: usize, left: Arc<AtomicU32>) -> Self {
        Self {
            functions: comms.functions,
            comm: comms.of_rank[rank],
            left,
            has_aborted: AtomicBool::new(false),
        }
    }

    /// Waits until `query` says that a stream has come as far; ends its kernels once another rank has left, or does not
    /// come.
    pub(super) fn wait(&self, query: impl Fn() -> sys::CUresult) -> Result<(), BackendError> {
        let started = Instant::now();
        loop {
            match query() {
                sys::CUresult::CUDA_SUCCESS => return Ok(()),
                sys::CUresult::CUDA_ERROR_NOT_READY => {}
                failure => return Err(failed("waiting for a GPU", &cudarc::driver::DriverError(failure))),
            }
            let waited = started.elapsed();
            if self.left.load(Ordering::Acquire) > 0 || waited > PATIENCE {
                if !self.has_aborted.swap(true, Ordering::AcqRel) {
                    // SAFETY: once, by the thread that uses this communicator, which is of no more use.
                    let _ = unsafe { (self.functions.comm_abort)(self.comm.0) };
                }
                return Err(nccl_failed(
                    "waiting for the other GPUs",
                    "one has failed, or does not come",
                ));
            }
            if waited > SPIN {
                thread::yield_now();
            }
        }
    }
}
