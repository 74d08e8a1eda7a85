//! The functions of `libnccl`, as far as the kernels' crate calls them. In the stream of each rank a call waits for the others,
//! for ever unless it is aborted, as NCCL's kernels do.

// NCCL's names.
#![allow(non_snake_case)]

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ffi::{c_char, c_int, c_void},
    slice,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::sys::CUstream;

use crate::{
    driver::{Handles, current, give, stream},
    element::Element,
};

/// `ncclResult_t`.
const SUCCESS: c_int = 0;
const UNHANDLED_CUDA_ERROR: c_int = 1;
const INVALID_ARGUMENT: c_int = 4;
/// `ncclUint32`, which is only ever moved.
const UNSIGNED: c_int = 3;
/// `ncclSum`.
const SUM: c_int = 0;

/// A handle of a communicator.
#[repr(C)]
struct Opaque([u8; 0]);

struct Comm {
    group: Arc<Group>,
    rank: usize,
}

struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What each rank has come with to what all do together.
    parts: Vec<Option<Part>>,
    /// How often all were there, and how it ended the last time.
    meetings: u64,
    outcome: Result<(), String>,
    /// What is on its way, by who has sent it and to whom.
    sent: HashMap<(usize, usize), Vec<f32>>,
    aborted: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq)]
struct Part {
    from: u64,
    to: u64,
    len: usize,
    element: Element,
    act: Act,
}

#[derive(Clone, Copy, PartialEq)]
enum Act {
    AllReduce,
    Broadcast { root: usize },
}

static COMMS: Handles<Comm> = Handles::new();

type Answer<T = ()> = Result<T, c_int>;

fn code(answer: Answer) -> c_int {
    answer.err().unwrap_or(SUCCESS)
}

/// Unsigned words are moved as if they were numbers of the same size, bit by bit.
fn element(kind: c_int, act: Option<Act>) -> Answer<Element> {
    match (kind, act) {
        (6, _) => Ok(Element::F16),
        (7, _) => Ok(Element::F32),
        (9, _) => Ok(Element::Bf16),
        (UNSIGNED, act) if act != Some(Act::AllReduce) => Ok(Element::F32),
        _ => Err(INVALID_ARGUMENT),
    }
}

impl Group {
    fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(State {
                parts: vec![None; count],
                meetings: 0,
                outcome: Ok(()),
                sent: HashMap::new(),
                aborted: vec![false; count],
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        let state = self.changed.wait_while(self.lock(), condition);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when every rank has come with its part, and all is done.
    fn meet(&self, rank: usize, part: Part) -> Result<(), String> {
        let mut state = self.lock();
        if state.aborted[rank] {
            return Ok(());
        }
        state.parts[rank] = Some(part);
        let meeting = state.meetings;
        if let Some(parts) = state.parts.iter().copied().collect::<Option<Vec<_>>>() {
            state.parts.fill(None);
            state.meetings += 1;
            state.outcome = together(&parts);
            self.changed.notify_all();
            return state.outcome.clone();
        }
        drop(state);
        let mut state = self.wait_while(|state| state.meetings == meeting && !state.aborted[rank]);
        if state.meetings == meeting {
            state.parts[rank] = None;
            return Ok(());
        }
        state.outcome.clone()
    }

    /// Returns when there is room for what is sent, one message at a time.
    fn send(&self, rank: usize, peer: usize, values: Vec<f32>) {
        let is_full = |state: &mut State| state.sent.contains_key(&(rank, peer)) && !state.aborted[rank];
        let mut state = self.wait_while(is_full);
        if !state.aborted[rank] {
            state.sent.insert((rank, peer), values);
            self.changed.notify_all();
        }
    }

    /// `None` once aborted.
    fn receive(&self, rank: usize, peer: usize) -> Option<Vec<f32>> {
        let is_empty = |state: &mut State| !state.sent.contains_key(&(peer, rank)) && !state.aborted[rank];
        let received = self.wait_while(is_empty).sent.remove(&(peer, rank));
        self.changed.notify_all();
        received
    }

    fn abort(&self, rank: usize) {
        self.lock().aborted[rank] = true;
        self.changed.notify_all();
    }
}

/// What all ranks do with their parts.
fn together(parts: &[Part]) -> Result<(), String> {
    let kind = |part: &Part| (part.act, part.len, part.element);
    if parts.iter().any(|part| kind(part) != kind(&parts[0])) {
        return Err("NCCL: ranks do not ask for the same".to_owned());
    }
    let Part {
        len, element, act, ..
    } = parts[0];
    let read = |part: &Part| {
        let mut values = Vec::with_capacity(len);
        element.read(part.from, len, &mut values).map(|()| values)
    };
    let values = match act {
        Act::Broadcast { root } => read(&parts[root])?,
        Act::AllReduce => {
            let mut sums = read(&parts[0])?;
            for part in &parts[1..] {
                sums.iter_mut().zip(read(part)?).for_each(|(sum, x)| *sum += x);
            }
            sums
        }
    };
    parts.iter().try_for_each(|part| element.write(part.to, &values))
}

impl Comm {
    fn ask(self: Arc<Self>, part: Part, of: CUstream) -> Answer {
        let stream = stream(of).map_err(|_| UNHANDLED_CUDA_ERROR)?;
        let asked = stream.ask(move || self.group.meet(self.rank, part));
        asked.map_err(|_| UNHANDLED_CUDA_ERROR)
    }
}

fn comm(handle: *mut Opaque) -> Answer<Arc<Comm>> {
    COMMS.get(handle).map_err(|_| INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommInitAll(handles: *mut *mut Opaque, count: c_int, gpus: *const c_int) -> c_int {
    let init = || {
        current().map_err(|_| UNHANDLED_CUDA_ERROR)?;
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if count == 0 || gpus.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller names `count` devices.
        let gpus = unsafe { slice::from_raw_parts(gpus, count) };
        if (1..count).any(|i| gpus[..i].contains(&gpus[i])) {
            return Err(INVALID_ARGUMENT);
        }
        let group = Arc::new(Group::new(count));
        for rank in 0..count {
            let group = Arc::clone(&group);
            let handle = COMMS.add(Arc::new(Comm { group, rank }));
            // SAFETY: the caller has room for `count` handles.
            unsafe { give(handles.wrapping_add(rank), handle) }.map_err(|_| INVALID_ARGUMENT)?;
        }
        Ok(())
    };
    code(init())
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(handle: *mut Opaque) -> c_int {
    let removed = COMMS.remove(handle).map_err(|_| INVALID_ARGUMENT);
    code(removed.map(|comm| comm.group.abort(comm.rank)))
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    len: usize,
    kind: c_int,
    operation: c_int,
    handle: *mut Opaque,
    of: CUstream,
) -> c_int {
    let ask = || {
        if operation != SUM {
            return Err(INVALID_ARGUMENT);
        }
        let part = Part {
            from: from.addr() as u64,
            to: to.addr() as u64,
            len,
            element: element(kind, Some(Act::AllReduce))?,
            act: Act::AllReduce,
        };
        comm(handle)?.ask(part, of)
    };
    code(ask())
}

#[unsafe(no_mangle)]
extern "C" fn ncclBroadcast(
    from: *const c_void,
    to: *mut c_void,
    len: usize,
    kind: c_int,
    root: c_int,
    handle: *mut Opaque,
    of: CUstream,
) -> c_int {
    let ask = || {
        let comm = comm(handle)?;
        let root = peer(&comm, root)?;
        let act = Act::Broadcast { root };
        let part = Part {
            from: from.addr() as u64,
            to: to.addr() as u64,
            len,
            element: element(kind, Some(act))?,
            act,
        };
        comm.ask(part, of)
    };
    code(ask())
}

fn peer(comm: &Comm, rank: c_int) -> Answer<usize> {
    let count = comm.group.lock().parts.len();
    let rank = usize::try_from(rank).ok().filter(|rank| *rank < count);
    rank.ok_or(INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn ncclSend(
    from: *const c_void,
    len: usize,
    kind: c_int,
    to: c_int,
    handle: *mut Opaque,
    of: CUstream,
) -> c_int {
    let ask = || {
        let (comm, element) = (comm(handle)?, element(kind, None)?);
        let (to, from) = (peer(&comm, to)?, from.addr() as u64);
        let stream = stream(of).map_err(|_| UNHANDLED_CUDA_ERROR)?;
        let asked = stream.ask(move || {
            let mut values = Vec::with_capacity(len);
            element.read(from, len, &mut values)?;
            comm.group.send(comm.rank, to, values);
            Ok(())
        });
        asked.map_err(|_| UNHANDLED_CUDA_ERROR)
    };
    code(ask())
}

#[unsafe(no_mangle)]
extern "C" fn ncclRecv(
    to: *mut c_void,
    len: usize,
    kind: c_int,
    from: c_int,
    handle: *mut Opaque,
    of: CUstream,
) -> c_int {
    let ask = || {
        let (comm, element) = (comm(handle)?, element(kind, None)?);
        let (from, to) = (peer(&comm, from)?, to.addr() as u64);
        let stream = stream(of).map_err(|_| UNHANDLED_CUDA_ERROR)?;
        let asked = stream.ask(move || match comm.group.receive(comm.rank, from) {
            Some(values) if values.len() != len => Err("NCCL: sent is not what is received".to_owned()),
            Some(values) => element.write(to, &values),
            None => Ok(()),
        });
        asked.map_err(|_| UNHANDLED_CUDA_ERROR)
    };
    code(ask())
}

/// Calls never wait, so those of a group need not be begun together.
#[unsafe(no_mangle)]
extern "C" fn ncclGroupStart() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupEnd() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(error: c_int) -> *const c_char {
    let text = match error {
        SUCCESS => c"no error",
        UNHANDLED_CUDA_ERROR => c"unhandled cuda error",
        INVALID_ARGUMENT => c"invalid argument",
        _ => c"unknown result code",
    };
    text.as_ptr()
}
