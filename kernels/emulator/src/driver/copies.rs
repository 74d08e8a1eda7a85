//! Memory, and copies of it.

use std::{
    collections::BTreeMap,
    ffi::{c_uchar, c_uint, c_void},
    ptr,
    sync::{Arc, Mutex},
};

use cudarc::driver::sys::{CUDA_MEMCPY2D, CUdeviceptr, CUmemorytype, CUresult, CUstream};

use super::{
    answer::{Answer, code, give, lock},
    capture::forbid_beside_own,
    device::{self, Device, current},
    stream::{Stream, stream},
};
use crate::memory;

/// Pinned memory of the host, and in whose context it was allocated.
static PINNED: Mutex<BTreeMap<u64, Arc<Device>>> = Mutex::new(BTreeMap::new());

/// Whether all of it lies within an allocation, which it does until that is freed.
pub(crate) fn is_allocated(address: u64, len: usize) -> bool {
    let end = address.checked_add(len as u64);
    memory::find(address).is_some_and(|(_, last)| end.is_some_and(|end| end <= last))
}

fn expect_allocated(address: u64, len: usize) -> Answer {
    match is_allocated(address, len) {
        true => Ok(()),
        false => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

/// What a recorded copy says whose memory was freed.
fn check_allocated(what: &str, address: u64, len: usize) -> Result<(), String> {
    match is_allocated(address, len) {
        true => Ok(()),
        false => Err(format!("{what}: {len} bytes at {address:#x} are not allocated")),
    }
}

/// # Safety
/// Both ranges are allocated.
unsafe fn copy(from: u64, to: u64, len: usize) {
    let from = ptr::with_exposed_provenance::<u8>(from as usize);
    // SAFETY: the caller's; others may write there meanwhile, as on a GPU, which is theirs to avoid.
    unsafe { ptr::copy(from, ptr::with_exposed_provenance_mut(to as usize), len) };
}

fn allocate(device: &Device, len: usize) -> Answer<u64> {
    forbid_beside_own()?;
    if len == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    if len > device.free_bytes() {
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    memory::allocate(len).ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, len: usize) -> CUresult {
    let allocated = current().and_then(|device| {
        let address = allocate(&device, len)?;
        lock(&device.memory).insert(address, len);
        Ok(address)
    });
    // SAFETY: the caller's.
    code(allocated.and_then(|allocated| unsafe { give(address, allocated) }))
}

/// Waits for the device that the memory is of, and for no other: what runs there may wait for this thread.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    let free = || {
        current()?;
        let is_owner = |device: &&Arc<Device>| lock(&device.memory).contains_key(&address);
        let owner = device::all()?.iter().find(is_owner);
        let owner = owner.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        forbid_beside_own()?;
        owner.synchronize()?;
        lock(&owner.memory).remove(&address);
        memory::release(address);
        Ok(())
    };
    code(free())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemHostAlloc(
    address: *mut *mut c_void,
    len: usize,
    _flags: c_uint,
) -> CUresult {
    let allocated = current().and_then(|device| {
        forbid_beside_own()?;
        let address = memory::allocate(len).ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        lock(&PINNED).insert(address, device);
        Ok(ptr::with_exposed_provenance_mut(address as usize))
    });
    // SAFETY: the caller's.
    code(allocated.and_then(|allocated| unsafe { give(address, allocated) }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeHost(memory: *mut c_void) -> CUresult {
    let address = memory.addr() as u64;
    let free = || {
        current()?;
        let owner = lock(&PINNED).get(&address).cloned();
        let owner = owner.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        forbid_beside_own()?;
        owner.synchronize()?;
        lock(&PINNED).remove(&address);
        memory::release(address);
        Ok(())
    };
    code(free())
}

/// Pageable memory is read before this returns, pinned memory when the stream comes to it.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    len: usize,
    of: CUstream,
) -> CUresult {
    let ask = |stream: Arc<Stream>| {
        expect_allocated(to, len)?;
        let source = from.expose_provenance() as u64;
        if is_allocated(source, len) {
            return copy_later(&stream, source, to, len);
        }
        forbid_recording(&stream)?;
        // SAFETY: the caller's.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec();
        stream.ask(move || {
            check_allocated("a copy from the host", to, len)?;
            // SAFETY: the target was just checked, and the source is this closure's.
            unsafe { copy(bytes.as_ptr().expose_provenance() as u64, to, len) };
            Ok(())
        })
    };
    code(stream(of).and_then(ask))
}

/// Pageable memory is written before this returns.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    len: usize,
    of: CUstream,
) -> CUresult {
    let ask = |stream: Arc<Stream>| {
        expect_allocated(from, len)?;
        let target = to.expose_provenance() as u64;
        if is_allocated(target, len) {
            return copy_later(&stream, from, target, len);
        }
        forbid_recording(&stream)?;
        stream.ask(move || {
            check_allocated("a copy to the host", from, len)?;
            // SAFETY: the source was just checked; the caller waits below, and the target is the caller's.
            unsafe { copy(from, target, len) };
            Ok(())
        })?;
        stream.drain();
        stream.device.check()
    };
    code(stream(of).and_then(ask))
}

fn copy_later(stream: &Stream, from: u64, to: u64, len: usize) -> Answer {
    stream.ask(move || {
        check_allocated("a copy's source", from, len)?;
        check_allocated("a copy's target", to, len)?;
        // SAFETY: just checked.
        unsafe { copy(from, to, len) };
        Ok(())
    })
}

/// Pageable memory may be gone when what was recorded is done.
fn forbid_recording(stream: &Stream) -> Answer {
    match &mut *lock(&stream.capture) {
        Some(capture) => Err(capture.spoil()),
        None => Ok(()),
    }
}

/// Between memory of devices.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpy2DAsync_v2(copies: *const CUDA_MEMCPY2D, of: CUstream) -> CUresult {
    if copies.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's.
    let copies = unsafe { *copies };
    let ask = |stream: Arc<Stream>| {
        let kinds = [copies.srcMemoryType, copies.dstMemoryType];
        if kinds != [CUmemorytype::CU_MEMORYTYPE_DEVICE; 2] {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let (width, height) = (copies.WidthInBytes, copies.Height);
        if width > copies.srcPitch || width > copies.dstPitch {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let from = copies.srcDevice + (copies.srcY * copies.srcPitch + copies.srcXInBytes) as u64;
        let to = copies.dstDevice + (copies.dstY * copies.dstPitch + copies.dstXInBytes) as u64;
        let rows = move || {
            (0..height as u64).map(move |row| {
                let (source, target) = (row * copies.srcPitch as u64, row * copies.dstPitch as u64);
                (from + source, to + target)
            })
        };
        for (from, to) in rows() {
            expect_allocated(from, width).and(expect_allocated(to, width))?;
        }
        stream.ask(move || {
            for (from, to) in rows() {
                check_allocated("a copy's source", from, width)?;
                check_allocated("a copy's target", to, width)?;
                // SAFETY: just checked.
                unsafe { copy(from, to, width) };
            }
            Ok(())
        })
    };
    code(stream(of).and_then(ask))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: c_uchar,
    len: usize,
    of: CUstream,
) -> CUresult {
    let ask = |stream: Arc<Stream>| {
        expect_allocated(to, len)?;
        stream.ask(move || {
            check_allocated("a fill", to, len)?;
            let target = ptr::with_exposed_provenance_mut::<u8>(to as usize);
            // SAFETY: just checked; as for copies.
            unsafe { target.write_bytes(value, len) };
            Ok(())
        })
    };
    code(stream(of).and_then(ask))
}
