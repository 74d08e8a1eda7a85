//! Devices, and their contexts: one each, as long as the process.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{c_char, c_int, c_uint},
    ptr,
    sync::{Arc, LazyLock, Mutex, OnceLock, Weak},
};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult};

use super::{
    answer::{Answer, code, give, lock},
    stream::Stream,
};

/// How many there are: 1 unless said.
const GPUS: &str = "FERRUM_EMULATED_GPUS";
/// Multiprocessors of each: as an H100 has unless said.
const SMS: &str = "FERRUM_EMULATED_SMS";
const NAME: &[u8] = b"Emulated GPU\0";
const MEMORY_BYTES: usize = 8 << 30;
/// Multiprocessors that lie together, as on an H100: a cluster is one of theirs.
const TOGETHER: usize = 18;

pub(crate) struct Device {
    ordinal: usize,
    sms: usize,
    /// Lengths by addresses.
    pub(super) memory: Mutex<BTreeMap<u64, usize>>,
    pub(super) streams: Mutex<Vec<Weak<Stream>>>,
    peers: Mutex<BTreeSet<usize>>,
    /// What every call answers from the first fault on.
    fault: OnceLock<CUresult>,
}

static DEVICES: LazyLock<Result<Vec<Arc<Device>>, String>> = LazyLock::new(|| {
    let (gpus, sms) = (number(GPUS, 1)?, number(SMS, 132)?);
    Ok((0..gpus)
        .map(|ordinal| Arc::new(Device::new(ordinal, sms)))
        .collect())
});

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn number(variable: &str, default: usize) -> Result<usize, String> {
    let Some(value) = env::var_os(variable) else {
        return Ok(default);
    };
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.ok_or_else(|| format!("{variable} is {value:?}, not a number"))
}

impl Device {
    /// How many clusters of so many blocks run at once if a block fills a multiprocessor.
    pub(super) fn clusters(&self, blocks: usize) -> usize {
        self.sms / TOGETHER * (TOGETHER / blocks) + self.sms % TOGETHER / blocks
    }

    pub(super) fn new(ordinal: usize, sms: usize) -> Self {
        Self {
            ordinal,
            sms,
            memory: Mutex::default(),
            streams: Mutex::default(),
            peers: Mutex::default(),
            fault: OnceLock::new(),
        }
    }

    /// From now on every call in this context fails; the first time it is said why, which no GPU does.
    #[expect(
        clippy::print_stderr,
        reason = "a driver has no other way to say more than a number"
    )]
    pub(super) fn fail(&self, why: &str) {
        if self.fault.set(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS).is_ok() {
            eprintln!("emulated GPU {}: {why}", self.ordinal);
        }
    }

    /// An error once the context has had a fault.
    pub(super) fn check(&self) -> Answer {
        self.fault.get().map_or(Ok(()), |&fault| Err(fault))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.fault.get().is_some()
    }

    pub(super) fn free_bytes(&self) -> usize {
        MEMORY_BYTES.saturating_sub(lock(&self.memory).values().sum())
    }

    /// Waits until every stream has done what it was asked for until now.
    pub(super) fn synchronize(&self) -> Answer {
        let mut streams = lock(&self.streams);
        streams.retain(|stream| stream.strong_count() > 0);
        let streams: Vec<_> = streams.iter().filter_map(Weak::upgrade).collect();
        streams.iter().for_each(|stream| stream.drain());
        self.check()
    }
}

/// The device whose context is current in this thread.
pub(crate) fn current() -> Answer<Arc<Device>> {
    let ordinal = CURRENT.get().ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let device = device(ordinal as CUdevice)?;
    device.check()?;
    Ok(device)
}

pub(super) fn all() -> Answer<&'static [Arc<Device>]> {
    match &*DEVICES {
        Ok(devices) => Ok(devices),
        Err(_) => Err(CUresult::CUDA_ERROR_INVALID_DEVICE),
    }
}

fn device(ordinal: CUdevice) -> Answer<Arc<Device>> {
    let device = all()?.get(ordinal as usize).cloned();
    device.ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
}

/// A context's number is one more than its device's.
fn of_context(context: CUcontext) -> Answer<Arc<Device>> {
    let ordinal = context.addr().checked_sub(1);
    let device = ordinal.and_then(|ordinal| device(ordinal as CUdevice).ok());
    device.ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)
}

#[unsafe(no_mangle)]
#[expect(clippy::print_stderr, reason = "as of a fault")]
pub(super) extern "C" fn cuInit(flags: c_uint) -> CUresult {
    match &*DEVICES {
        Ok(devices) if devices.is_empty() => CUresult::CUDA_ERROR_NO_DEVICE,
        Ok(_) if flags != 0 => CUresult::CUDA_ERROR_INVALID_VALUE,
        Ok(_) => CUresult::CUDA_SUCCESS,
        Err(error) => {
            eprintln!("emulated GPU: {error}");
            CUresult::CUDA_ERROR_NO_DEVICE
        }
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    code(all().and_then(|devices| unsafe { give(count, devices.len() as c_int) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGet(gpu: *mut CUdevice, ordinal: c_int) -> CUresult {
    // SAFETY: the caller's.
    code(device(ordinal).and_then(|_| unsafe { give(gpu, ordinal) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, gpu: CUdevice) -> CUresult {
    if device(gpu).is_err() {
        return CUresult::CUDA_ERROR_INVALID_DEVICE;
    }
    if name.is_null() || (len as usize) < NAME.len() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller has room for `len` bytes.
    unsafe { ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, NAME.len()) };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, gpu: CUdevice) -> CUresult {
    // SAFETY: the caller's.
    code(device(gpu).and_then(|_| unsafe { give(bytes, MEMORY_BYTES) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    which: Attribute,
    gpu: CUdevice,
) -> CUresult {
    let attribute = |device: &Device| match which {
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => Ok(9),
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => Ok(0),
        Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => Ok(device.sms as c_int),
        _ => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
    };
    let value_of = device(gpu).and_then(|device| attribute(&device));
    // SAFETY: the caller's.
    code(value_of.and_then(|of| unsafe { give(value, of) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceCanAccessPeer(
    can: *mut c_int,
    gpu: CUdevice,
    peer: CUdevice,
) -> CUresult {
    let both = device(gpu).and_then(|_| device(peer));
    // SAFETY: the caller's.
    code(both.and_then(|_| unsafe { give(can, (gpu != peer).into()) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, gpu: CUdevice) -> CUresult {
    let handle = device(gpu).map(|device| ptr::without_provenance_mut(device.ordinal + 1));
    // SAFETY: the caller's.
    code(handle.and_then(|handle| unsafe { give(context, handle) }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    if context.is_null() {
        CURRENT.set(None);
        return CUresult::CUDA_SUCCESS;
    }
    code(of_context(context).map(|device| CURRENT.set(Some(device.ordinal))))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxEnablePeerAccess(peer: CUcontext, flags: c_uint) -> CUresult {
    let enable = || {
        let (device, peer) = (current()?, of_context(peer)?);
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if device.ordinal == peer.ordinal {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        match lock(&device.peers).insert(peer.ordinal) {
            true => Ok(()),
            false => Err(CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED),
        }
    };
    code(enable())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let tell = |device: Arc<Device>| {
        // SAFETY: the caller's.
        unsafe { give(free, device.free_bytes()).and(give(total, MEMORY_BYTES)) }
    };
    code(current().and_then(tell))
}
