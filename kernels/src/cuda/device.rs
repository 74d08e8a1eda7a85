//! One GPU: its context, stream, memory and copies.

use std::{
    collections::HashMap,
    ffi::c_void,
    ptr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cudarc::driver::{result, sys};

use crate::{
    backend::BackendError,
    cuda::{
        CudaUnavailable, DEVICE,
        clusters::Clusters,
        launch::Function,
        nccl::Watch,
        recordings::beside_none,
        tally::{Counted, Tally},
        upload::Uploads,
    },
};

/// What a GPU is.
#[derive(Clone, Debug)]
pub struct GpuFacts {
    /// As the driver names it.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub num_sms: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
}

/// Pinned memory through which small copies go, so that they need not wait.
const STAGING_BYTES: usize = 8 << 20;
/// What goes through it at once.
pub(super) const MOST_STAGED_BYTES: usize = STAGING_BYTES / 8;

pub(super) struct Device {
    /// Counted from 0.
    pub(super) ordinal: usize,
    pub(super) gpu: sys::CUdevice,
    pub(super) context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) facts: GpuFacts,
    pub(super) clusters: Clusters,
    modules: Vec<sys::CUmodule>,
    pub(super) functions: HashMap<String, Function>,
    staging: Mutex<Staging>,
    pub(super) uploads: Uploads,
    allocated: AtomicUsize,
    /// Where the host must look whether other GPUs are still there while it waits for this one.
    watch: OnceLock<Watch>,
    /// To the end of giving back.
    _in_use: Counted,
}

struct Staging {
    memory: *mut u8,
    used: usize,
}

// SAFETY: the driver's handles may be used from any thread (the context is made current before each use), and the
// staging memory only under its lock.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Devices of the process.
static IN_USE: Tally = Tally::new();

/// Whether all GPUs that this process has opened are given back within `patience`. To be awaited before the process exits:
/// cuBLASLt is taken down then, and a thread that still ends what it has of it may crash.
#[must_use]
pub fn given_back(patience: Duration) -> bool {
    IN_USE.none_within(patience)
}

/// Turns the driver's answer into an error that names the call.
pub(super) fn check(call: &str, answer: sys::CUresult) -> Result<(), BackendError> {
    match answer {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failure => Err(failed(call, &result::DriverError(failure))),
    }
}

pub(super) fn failed(call: &str, error: &result::DriverError) -> BackendError {
    BackendError::Device {
        device: DEVICE,
        what: format!("{call}: {error}"),
    }
}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, CudaUnavailable> {
        let (gpu, facts) = probe(ordinal)?;
        let fail = |call: &'static str| move |error: result::DriverError| failed(call, &error);
        // SAFETY: `gpu` comes from the driver; the context is released with the device.
        let context =
            unsafe { result::primary_ctx::retain(gpu) }.map_err(fail("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(fail("cuCtxSetCurrent"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(fail("cuStreamCreate"))?;
        // SAFETY: the memory is used through `Staging` alone.
        let memory = unsafe { result::malloc_host(STAGING_BYTES, 0) }.map_err(fail("cuMemHostAlloc"))?;
        let (modules, functions) = super::launch::load_modules()?;
        Ok(Arc::new(Self {
            ordinal,
            gpu,
            context,
            stream,
            clusters: Clusters::count(&facts, &functions)?,
            facts,
            modules,
            functions,
            staging: Mutex::new(Staging {
                memory: memory.cast(),
                used: 0,
            }),
            uploads: Uploads::new(context)?,
            allocated: AtomicUsize::new(0),
            watch: OnceLock::new(),
            _in_use: IN_USE.add(),
        }))
    }

    /// Makes the context current in this thread, as every call of the driver wants it.
    pub(super) fn bind(&self) -> Result<(), BackendError> {
        // SAFETY: the context lives as long as the device.
        let bound = unsafe { result::ctx::set_current(self.context) };
        bound.map_err(|error| failed("cuCtxSetCurrent", &error))
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    pub(super) fn free_bytes(&self) -> Result<usize, BackendError> {
        self.bind()?;
        let info = result::mem_get_info();
        info.map(|(free, _)| free)
            .map_err(|error| failed("cuMemGetInfo", &error))
    }

    /// Zeroed memory.
    pub(super) fn alloc(self: &Arc<Self>, bytes: usize, what: &str) -> Result<DeviceMemory, BackendError> {
        let memory = self.alloc_unwritten(bytes, what)?;
        memory.clear_from(0)?;
        Ok(memory)
    }

    /// Memory of which all `bytes` are written next, from any stream; what lies behind them is zeroed.
    pub(super) fn alloc_for_upload(
        self: &Arc<Self>,
        bytes: usize,
        what: &str,
    ) -> Result<DeviceMemory, BackendError> {
        let memory = self.alloc_unwritten(bytes, what)?;
        memory.clear_from(bytes)?;
        Ok(memory)
    }

    fn alloc_unwritten(self: &Arc<Self>, bytes: usize, what: &str) -> Result<DeviceMemory, BackendError> {
        self.bind()?;
        // Room for a wide access past the end of a short row.
        let size = bytes.next_multiple_of(256).max(256);
        // SAFETY: the memory is owned by `DeviceMemory` from here on.
        let address = match unsafe { result::malloc_sync(size) } {
            Ok(address) => address,
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                return Err(BackendError::OutOfMemory {
                    device: DEVICE,
                    what: what.to_owned(),
                    needed: bytes,
                    available: self.free_bytes()?,
                });
            }
            Err(error) => return Err(failed("cuMemAlloc", &error)),
        };
        self.allocated.fetch_add(size, Ordering::Relaxed);
        Ok(DeviceMemory {
            device: Arc::clone(self),
            address,
            size,
        })
    }

    /// From now on the host waits with `watch`; the first counts.
    pub(super) fn watch(&self, watch: Watch) {
        let _ = self.watch.set(watch);
    }

    /// Waits until the stream has done everything asked of it.
    pub(super) fn synchronize(&self) -> Result<(), BackendError> {
        self.bind()?;
        if let Some(watch) = self.watch.get() {
            // SAFETY: the stream lives as long as the device.
            return watch.wait(|| unsafe { sys::cuStreamQuery(self.stream) });
        }
        // SAFETY: the stream lives as long as the device.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream)
        })
    }

    /// Waits until the stream has come to `event`.
    ///
    /// # Safety
    /// `event` was recorded on the stream.
    pub(super) unsafe fn wait_for(&self, event: sys::CUevent) -> Result<(), BackendError> {
        self.bind()?;
        match self.watch.get() {
            // SAFETY: the caller's.
            Some(watch) => watch.wait(|| unsafe { sys::cuEventQuery(event) }),
            // SAFETY: the caller's.
            None => check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event) }),
        }
    }

    /// Copies `bytes` to `offset` of `to`, in the order of the stream, without waiting for it if they are few.
    pub(super) fn upload(&self, bytes: &[u8], to: &DeviceMemory, offset: usize) -> Result<(), BackendError> {
        to.check_range(offset, bytes.len())?;
        self.bind()?;
        let target = to.address + offset as u64;
        let copy = |from: *const u8| {
            // SAFETY: the target's range was checked; pageable memory is read before the call returns, staging
            // memory is not written again before the stream has passed.
            check("cuMemcpyHtoDAsync", unsafe {
                sys::cuMemcpyHtoDAsync_v2(target, from.cast(), bytes.len(), self.stream)
            })
        };
        if bytes.len() > MOST_STAGED_BYTES {
            return copy(bytes.as_ptr());
        }
        self.staged(bytes, |from| copy(ptr::with_exposed_provenance(from as usize)))
    }

    /// Puts `bytes` into pinned memory and `ask`s the stream for what reads them there, at an address that is the host's and
    /// the device's.
    pub(super) fn staged(
        &self,
        bytes: &[u8],
        ask: impl FnOnce(u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        crate::cpu::check_len("pinned memory", STAGING_BYTES, bytes.len())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.used + bytes.len() > STAGING_BYTES {
            self.synchronize()?;
            staging.used = 0;
        }
        // SAFETY: within the staging memory, in a part that nothing in flight reads.
        let from = unsafe { staging.memory.add(staging.used) };
        // SAFETY: as above, and the two cannot overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), from, bytes.len()) };
        staging.used = (staging.used + bytes.len()).next_multiple_of(256);
        ask(from.expose_provenance() as u64)
    }

    /// Copies the front of `from` into `bytes`, after everything asked of the stream before.
    pub(super) fn download(&self, from: &DeviceMemory, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.settle()?;
        from.check_range(0, bytes.len())?;
        self.bind()?;
        // SAFETY: both ranges are valid, and `bytes` is borrowed until the copy is done.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                bytes.as_mut_ptr().cast::<c_void>(),
                from.address,
                bytes.len(),
                self.stream,
            )
        })?;
        self.synchronize()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: nothing is left that uses what is given back here; a failure leaves it to the process's end.
            beside_none(|| unsafe {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuMemFreeHost(staging.memory.cast());
                for module in &self.modules {
                    let _ = sys::cuModuleUnload(*module);
                }
                let _ = sys::cuStreamDestroy_v2(self.stream);
            });
        }
    }
}

/// A range of the GPU's memory.
pub(super) struct DeviceMemory {
    device: Arc<Device>,
    address: u64,
    size: usize,
}

impl DeviceMemory {
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn clear_from(&self, offset: usize) -> Result<(), BackendError> {
        if offset == self.size {
            return Ok(());
        }
        // SAFETY: the range is that of an allocation.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(
                self.address + offset as u64,
                0,
                self.size - offset,
                self.device.stream,
            )
        })
    }

    pub(super) fn check_range(&self, offset: usize, len: usize) -> Result<(), BackendError> {
        crate::cpu::check_len("the buffer's bytes", self.size, offset + len)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.device.allocated.fetch_sub(self.size, Ordering::Relaxed);
        // Nothing writes to what is freed; why an upload failed was told to who waited for it.
        let _ = self.device.settle();
        if self.device.bind().is_ok() {
            // SAFETY: allocated with `cuMemAlloc` and freed once; the call waits for what still uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// GPUs that the driver sees.
pub(super) fn count() -> Result<usize, CudaUnavailable> {
    // SAFETY: only looks for the driver's library.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaUnavailable::NoDriver);
    }
    result::init().map_err(|error| CudaUnavailable::NoGpu {
        reason: error.to_string(),
    })?;
    let count = result::device::get_count().map_err(|error| failed("cuDeviceGetCount", &error))?;
    Ok(count as usize)
}

/// The GPU, if it can be used.
pub(super) fn probe(ordinal: usize) -> Result<(sys::CUdevice, GpuFacts), CudaUnavailable> {
    let fail = |call: &'static str| move |error: result::DriverError| failed(call, &error);
    let count = count()?;
    if ordinal >= count {
        return Err(CudaUnavailable::NoSuchGpu { ordinal, count });
    }
    let gpu = result::device::get(ordinal as i32).map_err(fail("cuDeviceGet"))?;
    let facts = facts(gpu).map_err(fail("cuDeviceGetAttribute"))?;
    if facts.capability < (8, 0) {
        let (major, minor) = facts.capability;
        let name = facts.name;
        return Err(CudaUnavailable::TooOld { name, major, minor });
    }
    Ok((gpu, facts))
}

fn facts(gpu: sys::CUdevice) -> Result<GpuFacts, result::DriverError> {
    use sys::CUdevice_attribute as Attribute;
    // SAFETY: `gpu` comes from the driver.
    let attribute = |which| unsafe { result::device::get_attribute(gpu, which) };
    Ok(GpuFacts {
        name: result::device::get_name(gpu)?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        num_sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(gpu)? },
    })
}
