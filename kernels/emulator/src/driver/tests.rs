mod launch;

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use cudarc::driver::sys::{
    CUcontext, CUevent, CUevent_flags, CUgraph, CUgraphExec, CUresult as Code, CUstream,
    CUstreamCaptureMode as Mode,
};

use super::{
    capture::{
        cuGraphDestroy, cuGraphExecDestroy, cuGraphInstantiateWithFlags, cuGraphLaunch,
        cuStreamBeginCapture_v2, cuStreamEndCapture,
    },
    copies::{
        cuMemAlloc_v2, cuMemFree_v2, cuMemFreeHost, cuMemHostAlloc, cuMemcpyDtoHAsync_v2,
        cuMemcpyHtoDAsync_v2, cuMemsetD8Async,
    },
    device::{Device, cuCtxSetCurrent, cuDeviceGetCount, cuDevicePrimaryCtxRetain, cuInit},
    event::{
        cuEventCreate, cuEventDestroy_v2, cuEventElapsedTime_v2, cuEventQuery, cuEventRecord,
        cuEventSynchronize,
    },
    forbid_beside_any,
    stream::{Stream, cuStreamCreate, cuStreamDestroy_v2, cuStreamQuery, cuStreamSynchronize, stream},
};
use crate::memory;

const OK: Code = Code::CUDA_SUCCESS;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `call` writes.
fn made<T>(initial: T, call: impl FnOnce(*mut T) -> Code) -> T {
    let mut value = initial;
    assert_eq!(call(&raw mut value), OK);
    value
}

/// Makes the first GPU's context current in this thread.
fn open() {
    assert_eq!(cuInit(0), OK);
    // SAFETY: there is room for a handle.
    let context: CUcontext = made(ptr::null_mut(), |to| unsafe { cuDevicePrimaryCtxRetain(to, 0) });
    assert_eq!(cuCtxSetCurrent(context), OK);
}

fn new_stream() -> CUstream {
    open();
    // SAFETY: there is room for a handle.
    made(ptr::null_mut(), |to| unsafe { cuStreamCreate(to, 1) })
}

fn new_event(flags: CUevent_flags) -> CUevent {
    // SAFETY: there is room for a handle.
    made(ptr::null_mut(), |to| unsafe { cuEventCreate(to, flags as u32) })
}

fn alloc(len: usize) -> u64 {
    // SAFETY: there is room for an address.
    made(0, |to| unsafe { cuMemAlloc_v2(to, len) })
}

fn read<const N: usize>(address: u64, of: CUstream) -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: there is room for `N` bytes.
    let answer = unsafe { cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), address, N, of) };
    assert_eq!(answer, OK);
    bytes
}

fn write(address: u64, bytes: &[u8], of: CUstream) -> Code {
    // SAFETY: the bytes are there until the call returns.
    unsafe { cuMemcpyHtoDAsync_v2(address, bytes.as_ptr().cast(), bytes.len(), of) }
}

/// One recording at a time: some of them spoil all others.
fn recording() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a stream from going on until the sender is used or dropped.
fn hold(of: CUstream) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    let held = Mutex::new(held);
    let wait = move || {
        let _ = held.lock().map(|held| held.recv_timeout(PATIENCE));
        Ok(())
    };
    stream(of).expect("a stream").ask(wait).expect("room");
    release
}

#[test]
fn a_stream_does_in_order_and_later_what_it_is_asked_for() {
    let of = new_stream();
    let address = alloc(8);
    assert_eq!(read::<8>(address, of), [0xff; 8], "new memory is unwritten");
    let release = hold(of);
    let mut bytes = vec![1, 2, 3, 4];
    assert_eq!(write(address, &bytes, of), OK);
    bytes.fill(9);
    assert_eq!(cuMemsetD8Async(address + 2, 7, 1, of), OK);
    assert_eq!(cuStreamQuery(of), Code::CUDA_ERROR_NOT_READY);
    drop(release);
    assert_eq!(cuStreamSynchronize(of), OK);
    assert_eq!(cuStreamQuery(of), OK);
    assert_eq!(read::<5>(address, of), [1, 2, 7, 4, 0xff]);
    assert_eq!(cuMemFree_v2(address), OK);
    assert_eq!(cuMemFree_v2(address), Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(cuMemsetD8Async(address, 7, 1, of), Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(cuStreamDestroy_v2(of), OK);
    assert_eq!(cuStreamSynchronize(of), Code::CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn pinned_memory_is_read_when_the_stream_comes_to_it() {
    let of = new_stream();
    let address = alloc(1);
    // SAFETY: there is room for an address.
    let pinned: *mut c_void = made(ptr::null_mut(), |to| unsafe { cuMemHostAlloc(to, 1, 0) });
    let pinned = pinned.cast::<u8>();
    let release = hold(of);
    // SAFETY: the allocation has one byte, which nothing reads meanwhile.
    unsafe { pinned.write(1) };
    // SAFETY: the byte stays until the stream is waited for.
    let copied = unsafe { cuMemcpyHtoDAsync_v2(address, pinned.cast(), 1, of) };
    assert_eq!(copied, OK);
    // SAFETY: the stream does not go on before it is released.
    unsafe { pinned.write(2) };
    drop(release);
    assert_eq!(read::<1>(address, of), [2]);
    assert_eq!(cuMemFreeHost(pinned.cast()), OK);
    assert_eq!(cuMemFree_v2(address), OK);
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

#[test]
fn an_event_comes_after_what_was_asked_before_it() {
    let of = new_stream();
    let (begun, ended) = (
        new_event(CUevent_flags::CU_EVENT_DEFAULT),
        new_event(CUevent_flags::CU_EVENT_DEFAULT),
    );
    assert_eq!(cuEventQuery(ended), OK, "one that was never recorded");
    assert_eq!(cuEventRecord(begun, of), OK);
    assert_eq!(cuEventSynchronize(begun), OK);
    let release = hold(of);
    assert_eq!(cuEventRecord(ended, of), OK);
    assert_eq!(cuEventQuery(ended), Code::CUDA_ERROR_NOT_READY);
    let mut ms = -1.0;
    // SAFETY: there is room for a number.
    let elapsed = |ms: *mut f32| unsafe { cuEventElapsedTime_v2(ms, begun, ended) };
    assert_eq!(elapsed(&raw mut ms), Code::CUDA_ERROR_NOT_READY);
    drop(release);
    assert_eq!(cuEventSynchronize(ended), OK);
    assert_eq!(elapsed(&raw mut ms), OK);
    assert!(ms >= 0.0);
    for event in [begun, ended] {
        assert_eq!(cuEventDestroy_v2(event), OK);
    }
    assert_eq!(cuEventRecord(ended, of), Code::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

#[test]
fn memory_is_freed_once_the_streams_of_its_device_have_gone_on() {
    let of = new_stream();
    let address = alloc(4);
    let release = hold(of);
    assert_eq!(cuMemsetD8Async(address, 1, 4, of), OK);
    let (freed, answer) = mpsc::channel();
    let freeing = thread::spawn(move || {
        open();
        freed.send(cuMemFree_v2(address)).expect("a receiver");
    });
    assert!(answer.recv_timeout(Duration::from_millis(50)).is_err());
    assert!(memory::find(address).is_some());
    drop(release);
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(OK));
    freeing.join().expect("an end");
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

#[test]
fn what_a_stream_records_is_done_as_often_as_it_is_launched() {
    let _alone = recording();
    let of = new_stream();
    let address = alloc(2);
    assert_eq!(write(address, &[5, 5], of), OK);
    let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    assert_eq!(cuStreamBeginCapture_v2(of, mode), OK);
    assert_eq!(cuStreamBeginCapture_v2(of, mode), Code::CUDA_ERROR_ILLEGAL_STATE);
    assert_eq!(cuMemsetD8Async(address, 1, 2, of), OK);
    assert_eq!(cuMemsetD8Async(address + 1, 2, 1, of), OK);
    // SAFETY: there is room for a handle.
    let graph: CUgraph = made(ptr::null_mut(), |to| unsafe { cuStreamEndCapture(of, to) });
    // SAFETY: as above.
    let executable: CUgraphExec = made(ptr::null_mut(), |to| unsafe {
        cuGraphInstantiateWithFlags(to, graph, 0)
    });
    assert_eq!(cuGraphDestroy(graph), OK);
    assert_eq!(read::<2>(address, of), [5, 5], "nothing was done yet");
    for _ in 0..2 {
        assert_eq!(cuGraphLaunch(executable, of), OK);
        assert_eq!(read::<2>(address, of), [1, 2]);
        assert_eq!(write(address, &[5, 5], of), OK);
    }
    assert_eq!(cuGraphExecDestroy(executable), OK);
    assert_eq!(cuGraphLaunch(executable, of), Code::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(cuMemFree_v2(address), OK);
    assert_eq!(cuStreamDestroy_v2(of), OK);
}

/// Begins a recording, does what may spoil it, and says how the recording ends.
fn recorded_beside(mode: Mode, call: impl FnOnce(CUstream)) -> Code {
    let of = new_stream();
    assert_eq!(cuStreamBeginCapture_v2(of, mode), OK);
    call(of);
    let mut graph: CUgraph = ptr::null_mut();
    // SAFETY: there is room for a handle.
    let ended = unsafe { cuStreamEndCapture(of, &raw mut graph) };
    if ended == OK {
        assert_eq!(cuGraphDestroy(graph), OK);
    }
    assert_eq!(cuStreamDestroy_v2(of), OK);
    ended
}

#[test]
fn calls_that_wait_spoil_a_recording_of_their_thread() {
    let _alone = recording();
    const SPOILT: Code = Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    const FORBIDDEN: Code = Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let local = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let address = {
        open();
        alloc(4)
    };
    let ended = recorded_beside(local, |_| assert_eq!(cuMemFree_v2(address), FORBIDDEN));
    assert_eq!(ended, SPOILT);
    assert_eq!(cuMemFree_v2(address), OK);
    let ended = recorded_beside(local, |of| {
        assert_eq!(cuStreamSynchronize(of), FORBIDDEN);
    });
    assert_eq!(ended, SPOILT);
    // Another thread may, but for what waits for the whole device.
    let elsewhere = |of: CUstream, call: fn(Arc<Device>)| {
        let device = Arc::clone(&stream(of).expect("a stream").device);
        thread::spawn(move || call(device)).join().expect("an end");
    };
    let ended = recorded_beside(local, |of| {
        elsewhere(of, |_| {
            let of = new_stream();
            assert_eq!(cuStreamSynchronize(of), OK);
            assert_eq!(cuStreamDestroy_v2(of), OK);
        });
    });
    assert_eq!(ended, OK);
    let ended = recorded_beside(local, |of| {
        elsewhere(of, |device| {
            assert_eq!(forbid_beside_any(&device), Err(FORBIDDEN))
        });
    });
    assert_eq!(ended, SPOILT);
}

#[test]
fn a_fault_is_the_answer_of_every_later_call() {
    // A device of its own: there is no way back.
    let device = Arc::new(Device::new(7, 1));
    let stream = Stream::start(Arc::clone(&device)).expect("a thread");
    stream.ask(|| Ok(())).expect("room");
    assert_eq!(device.synchronize(), Ok(()));
    let (did, done) = mpsc::channel();
    stream
        .ask(|| Err("the fault of a test".to_owned()))
        .expect("room");
    let did = Mutex::new(did);
    stream
        .ask(move || {
            did.lock()
                .map_err(|_| String::new())?
                .send(())
                .map_err(|_| String::new())
        })
        .expect("room");
    for _ in 0..2 {
        assert_eq!(device.synchronize(), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    }
    assert!(done.try_recv().is_err(), "nothing is done after a fault");
}

#[test]
fn a_call_without_a_context_or_a_device_is_refused() {
    let mut count: c_int = -1;
    // SAFETY: there is room for a number.
    assert_eq!(unsafe { cuDeviceGetCount(&raw mut count) }, OK);
    assert_eq!(count, 1);
    // SAFETY: a null pointer is refused.
    let refused = unsafe { cuDeviceGetCount(ptr::null_mut()) };
    assert_eq!(refused, Code::CUDA_ERROR_INVALID_VALUE);
    let mut context = ptr::null_mut();
    // SAFETY: there is room for a handle.
    let refused = unsafe { cuDevicePrimaryCtxRetain(&raw mut context, 1) };
    assert_eq!(refused, Code::CUDA_ERROR_INVALID_DEVICE);
    assert_eq!(cuCtxSetCurrent(ptr::null_mut()), OK);
    let mut address = 0;
    // SAFETY: there is room for an address.
    let refused = unsafe { cuMemAlloc_v2(&raw mut address, 1) };
    assert_eq!(refused, Code::CUDA_ERROR_INVALID_CONTEXT);
    open();
    // SAFETY: as above.
    let refused = unsafe { cuMemAlloc_v2(&raw mut address, 81 << 30) };
    assert_eq!(refused, Code::CUDA_ERROR_OUT_OF_MEMORY);
}
