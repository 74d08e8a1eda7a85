//! Modules: PTX texts and their kernels.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUmodule, CUresult};

use super::{
    answer::{Answer, Handles, code, give, lock},
    capture::forbid_beside_own,
    device::{Device, current},
};
use crate::ptx::{self, Kernel};

/// What a block may have without asking for more, and what it may ask for.
const USUAL_SHARED_BYTES: u32 = 48 << 10;
const MOST_SHARED_BYTES: u32 = 227 << 10;

/// How machine code begins: fatbins and ELF.
const MACHINE_CODE: [&[u8]; 2] = [b"\x50\xed\x55\xba", b"\x7fELF"];

struct Module {
    device: Arc<Device>,
    functions: Vec<CUfunction>,
}

// SAFETY: the handles are numbers.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

pub(super) struct Function {
    pub(super) kernel: Arc<Kernel>,
    name: CString,
    /// Dynamic shared memory that a launch may have.
    pub(super) most_shared_bytes: AtomicU32,
}

static MODULES: Handles<Module> = Handles::new();
pub(super) static FUNCTIONS: Handles<Function> = Handles::new();

/// Texts are read once, although each device loads them.
static READ: Mutex<Option<HashMap<String, Arc<ptx::Module>>>> = Mutex::new(None);

#[expect(
    clippy::print_stderr,
    reason = "a driver has no other way to say more than a number"
)]
fn read(image: &CStr) -> Answer<Arc<ptx::Module>> {
    if MACHINE_CODE.iter().any(|code| image.to_bytes().starts_with(code)) {
        eprintln!(
            "emulated GPU: a module is machine code, not PTX (FERRUM_CUDA_CODE=ptx builds kernels as PTX)"
        );
        return Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    let text = image.to_str().map_err(|_| CUresult::CUDA_ERROR_INVALID_PTX)?;
    let mut read = lock(&READ);
    let read = read.get_or_insert_default();
    if let Some(module) = read.get(text) {
        return Ok(Arc::clone(module));
    }
    let parsed = ptx::Module::parse(text).map_err(|error| {
        eprintln!("emulated GPU: {error}");
        CUresult::CUDA_ERROR_INVALID_PTX
    })?;
    let module = Arc::new(parsed);
    read.insert(text.to_owned(), Arc::clone(&module));
    Ok(module)
}

fn function(kernel: &Arc<Kernel>) -> CUfunction {
    FUNCTIONS.add(Arc::new(Function {
        kernel: Arc::clone(kernel),
        name: CString::new(kernel.name.as_str()).unwrap_or_default(),
        most_shared_bytes: AtomicU32::new(USUAL_SHARED_BYTES),
    }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleLoadData(handle: *mut CUmodule, image: *const c_void) -> CUresult {
    let load = || {
        let device = current()?;
        forbid_beside_own()?;
        if image.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: PTX ends with a zero, and machine code has one soon.
        let module = read(unsafe { CStr::from_ptr(image.cast()) })?;
        let functions = module.kernels.iter().map(function).collect();
        // SAFETY: the caller's.
        unsafe { give(handle, MODULES.add(Arc::new(Module { device, functions }))) }
    };
    code(load())
}

/// Waits for what still runs.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleUnload(handle: CUmodule) -> CUresult {
    let unload = || {
        current()?;
        forbid_beside_own()?;
        let module = MODULES.remove(handle)?;
        module.device.synchronize()?;
        for &function in &module.functions {
            FUNCTIONS.remove(function)?;
        }
        Ok(())
    };
    code(unload())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleGetFunctionCount(count: *mut c_uint, handle: CUmodule) -> CUresult {
    let module = MODULES.get(handle);
    // SAFETY: the caller's.
    code(module.and_then(|module| unsafe { give(count, module.functions.len() as c_uint) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleEnumerateFunctions(
    functions: *mut CUfunction,
    count: c_uint,
    handle: CUmodule,
) -> CUresult {
    let list = |module: Arc<Module>| {
        for (i, &function) in module.functions.iter().take(count as usize).enumerate() {
            // SAFETY: the caller has room for `count`.
            unsafe { give(functions.wrapping_add(i), function) }?;
        }
        Ok(())
    };
    code(MODULES.get(handle).and_then(list))
}

/// The name lives as long as the module.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuFuncGetName(name: *mut *const c_char, handle: CUfunction) -> CUresult {
    let function = FUNCTIONS.get(handle);
    // SAFETY: the caller's.
    code(function.and_then(|function| unsafe { give(name, function.name.as_ptr()) }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetAttribute(
    handle: CUfunction,
    attribute: Attribute,
    value: c_int,
) -> CUresult {
    let set = |function: Arc<Function>| match (attribute, u32::try_from(value)) {
        (Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, Ok(bytes))
            if bytes <= MOST_SHARED_BYTES =>
        {
            function.most_shared_bytes.fetch_max(bytes, Ordering::Relaxed);
            Ok(())
        }
        // A hint.
        (Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, Ok(0..=100)) => Ok(()),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    code(FUNCTIONS.get(handle).and_then(set))
}
