//! Recordings of what is asked of a stream, and graphs, which are what was recorded.

use std::{
    ffi::c_ulonglong,
    sync::{Arc, Mutex},
    thread::{self, ThreadId},
};

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode};

use super::{
    answer::{Answer, Handles, code, give, lock},
    device::Device,
    stream::{Stream, Work, stream},
};

/// A recording under way.
pub(super) struct Capture {
    thread: ThreadId,
    mode: CUstreamCaptureMode,
    works: Vec<Work>,
    is_spoilt: bool,
}

/// Streams that record.
static CAPTURING: Mutex<Vec<Arc<Stream>>> = Mutex::new(Vec::new());

static GRAPHS: Handles<Vec<Work>> = Handles::new();
static EXECUTABLES: Handles<Vec<Work>> = Handles::new();

impl Capture {
    pub(super) fn record(&mut self, work: Work) -> Answer {
        if self.is_spoilt {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        self.works.push(work);
        Ok(())
    }

    /// What was asked for cannot be recorded, nor what was recorded be used.
    pub(super) fn spoil(&mut self) -> CUresult {
        self.is_spoilt = true;
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    }

    /// Whether this thread may not call what waits for streams.
    fn binds_this_thread(&self) -> bool {
        match self.mode {
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL => true,
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => self.thread == thread::current().id(),
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED => false,
        }
    }
}

/// For calls that may wait for streams: they spoil the recordings that their thread is bound by.
pub(super) fn forbid_beside_own() -> Answer {
    spoil(|_, capture| capture.binds_this_thread())
}

/// For calls that wait for the whole device: they spoil every recording on it.
pub(crate) fn forbid_beside_any(device: &Arc<Device>) -> Answer {
    spoil(|stream, _| Arc::ptr_eq(&stream.device, device))
}

fn spoil(which: impl Fn(&Stream, &Capture) -> bool) -> Answer {
    let mut answer = Ok(());
    for stream in lock(&CAPTURING).iter() {
        if let Some(capture) = &mut *lock(&stream.capture)
            && which(stream, capture)
        {
            answer = Err(capture.spoil());
        }
    }
    answer
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture_v2(handle: CUstream, mode: CUstreamCaptureMode) -> CUresult {
    let begin = |stream: Arc<Stream>| {
        let mut capturing = lock(&CAPTURING);
        let mut capture = lock(&stream.capture);
        if capture.is_some() {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        *capture = Some(Capture {
            thread: thread::current().id(),
            mode,
            works: Vec::new(),
            is_spoilt: false,
        });
        capturing.push(Arc::clone(&stream));
        Ok(())
    };
    code(stream(handle).and_then(begin))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamEndCapture(handle: CUstream, graph: *mut CUgraph) -> CUresult {
    let end = |stream: Arc<Stream>| {
        let mut capturing = lock(&CAPTURING);
        let mut capture = lock(&stream.capture);
        let begun = capture.as_ref().ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        let relaxed = begun.mode == CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        if !relaxed && begun.thread != thread::current().id() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        capturing.retain(|other| !Arc::ptr_eq(other, &stream));
        match capture.take() {
            Some(capture) if !capture.is_spoilt => Ok(Arc::new(capture.works)),
            _ => Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        }
    };
    let ended = stream(handle).and_then(end);
    // SAFETY: the caller's.
    code(ended.and_then(|works| unsafe { give(graph, GRAPHS.add(works)) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    _flags: c_ulonglong,
) -> CUresult {
    // SAFETY: the caller's.
    code(
        GRAPHS
            .get(graph)
            .and_then(|works| unsafe { give(executable, EXECUTABLES.add(works)) }),
    )
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphLaunch(executable: CUgraphExec, handle: CUstream) -> CUresult {
    let launch = || {
        let (stream, works) = (stream(handle)?, EXECUTABLES.get(executable)?);
        stream.ask(move || works.iter().try_for_each(|work| work()))
    };
    code(launch())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    code(GRAPHS.remove(graph).map(drop))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    code(EXECUTABLES.remove(executable).map(drop))
}
