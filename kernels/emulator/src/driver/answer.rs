//! What calls answer with.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, CString, c_char},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::sys::CUresult;

/// A call's answer before it becomes a number.
pub(crate) type Answer<T = ()> = Result<T, CUresult>;

pub(super) fn code(answer: Answer) -> CUresult {
    answer.err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// Writes a result to where the caller wants it.
///
/// # Safety
/// `to` may be null, else be written to.
pub(crate) unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { to.write(value) };
    Ok(())
}

/// No lock here guards what a panic would leave half done.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Things by the numbers that callers have of them.
pub(crate) struct Handles<T> {
    things: Mutex<(usize, BTreeMap<usize, Arc<T>>)>,
}

impl<T> Handles<T> {
    pub(crate) const fn new() -> Self {
        Self {
            things: Mutex::new((0, BTreeMap::new())),
        }
    }

    pub(crate) fn add<H>(&self, thing: Arc<T>) -> *mut H {
        let mut things = lock(&self.things);
        things.0 += 1;
        let number = things.0;
        things.1.insert(number, thing);
        std::ptr::without_provenance_mut(number)
    }

    pub(crate) fn get<H>(&self, handle: *mut H) -> Answer<Arc<T>> {
        let things = lock(&self.things);
        let thing = things.1.get(&handle.addr()).cloned();
        thing.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub(crate) fn remove<H>(&self, handle: *mut H) -> Answer<Arc<T>> {
        let thing = lock(&self.things).1.remove(&handle.addr());
        thing.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's.
    code(unsafe { give(text, name(error).as_ptr()) })
}

/// The error's name, which stays.
fn name(error: CUresult) -> &'static CStr {
    static NAMES: Mutex<Option<HashMap<u32, &'static CStr>>> = Mutex::new(None);
    let mut names = lock(&NAMES);
    let names = names.get_or_insert_default();
    names.entry(error as u32).or_insert_with(|| {
        let name = CString::new(format!("{error:?}")).unwrap_or_default();
        Box::leak(name.into_boxed_c_str())
    })
}
