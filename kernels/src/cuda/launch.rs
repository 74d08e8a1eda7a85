//! The compiled kernels, and how one is launched.

use std::{
    collections::HashMap,
    ffi::{CStr, c_void},
    ptr,
};

use cudarc::driver::sys;

use crate::{
    backend::BackendError,
    cuda::{
        DEVICE,
        device::{Device, check},
    },
};

/// Fatbins are read in words; texts could lie anywhere.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Dynamic shared memory that every kernel may have; more has to be asked for, what a kernel has beside this counted in.
const USUAL_SHARED_BYTES: usize = 40 << 10;
/// Most arguments of a kernel.
const MAX_ARGUMENTS: usize = 24;

#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Loads every image into the current context; its modules, and its kernels by their names.
pub(super) fn load_modules() -> Result<(Vec<sys::CUmodule>, HashMap<String, Function>), BackendError> {
    let mut modules = Vec::new();
    let mut functions = HashMap::new();
    for image in IMAGES {
        let mut module = ptr::null_mut();
        // SAFETY: the image is a fatbin that nvcc wrote, or a text that ends with a zero; the driver copies what it needs.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut module, image.0.as_ptr().cast())
        })?;
        modules.push(module);
        let mut count = 0;
        // SAFETY: the module was just loaded.
        check("cuModuleGetFunctionCount", unsafe {
            sys::cuModuleGetFunctionCount(&raw mut count, module)
        })?;
        let mut handles = vec![ptr::null_mut(); count as usize];
        // SAFETY: there is room for as many handles as the module has functions.
        check("cuModuleEnumerateFunctions", unsafe {
            sys::cuModuleEnumerateFunctions(handles.as_mut_ptr(), count, module)
        })?;
        for handle in handles {
            let mut name = ptr::null();
            // SAFETY: the handle is of a function of the module.
            check("cuFuncGetName", unsafe {
                sys::cuFuncGetName(&raw mut name, handle)
            })?;
            // SAFETY: the driver gave a text that ends with a zero and lives as long as the module.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
            functions.insert(name, Function(handle));
        }
    }
    Ok((modules, functions))
}

impl Device {
    /// A launch of the kernel `name`, to be filled in.
    pub(super) fn kernel(&self, name: &str) -> Result<Launch<'_>, BackendError> {
        self.settle()?;
        let function = *self.functions.get(name).ok_or_else(|| no_kernel(name))?;
        Ok(Launch {
            device: self,
            function,
            grid: [1; 3],
            threads: 128,
            shared_bytes: 0,
            cluster: 1,
            maps: &[],
            arguments: [0; MAX_ARGUMENTS],
            count: 0,
        })
    }
}

pub(super) fn no_kernel(name: &str) -> BackendError {
    BackendError::Device {
        device: DEVICE,
        what: format!("there is no kernel {name}: these element types do not go together"),
    }
}

/// A kernel with its grid and arguments, which are given in the kernel's order.
pub(super) struct Launch<'a> {
    device: &'a Device,
    function: Function,
    grid: [usize; 3],
    threads: usize,
    shared_bytes: usize,
    cluster: usize,
    maps: &'a [sys::CUtensorMap],
    /// Each in its first bytes, as a little-endian machine lays them out.
    arguments: [u64; MAX_ARGUMENTS],
    count: usize,
}

impl<'a> Launch<'a> {
    pub(super) fn grid(mut self, x: usize, y: usize, z: usize) -> Self {
        self.grid = [x, y, z];
        self
    }

    pub(super) fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Bytes of dynamic shared memory.
    pub(super) fn shared(mut self, bytes: usize) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// Blocks, neighbours along x, that run at once and share their shared memory; 1 before Hopper.
    pub(super) fn cluster(mut self, blocks: usize) -> Self {
        self.cluster = blocks;
        self
    }

    /// The kernel's first arguments.
    pub(super) fn maps(mut self, maps: &'a [sys::CUtensorMap]) -> Self {
        self.maps = maps;
        self
    }

    /// A pointer or a `size_t`.
    pub(super) fn wide(mut self, value: u64) -> Self {
        self.arguments[self.count] = value;
        self.count += 1;
        self
    }

    /// An `int` or `uint32_t`.
    pub(super) fn int(self, value: usize) -> Self {
        self.wide(value as u32 as u64)
    }

    pub(super) fn float(self, value: f32) -> Self {
        self.wide(u64::from(value.to_bits()))
    }

    /// Launches, unless the grid is empty. A last argument that is a struct of words is given word by word.
    pub(super) fn run(mut self) -> Result<(), BackendError> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        self.device.bind()?;
        if self.shared_bytes > USUAL_SHARED_BYTES {
            self.function.allow_shared(self.shared_bytes)?;
        }
        let mut pointers = [ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        let maps = self.maps.iter().map(|map| (&raw const *map).cast_mut().cast());
        let words = self
            .arguments
            .iter_mut()
            .map(|word| (&raw mut *word).cast::<c_void>());
        for (pointer, argument) in pointers.iter_mut().zip(maps.chain(words)) {
            *pointer = argument;
        }
        let mut attributes = [programmatic_serialization(), cluster_of(self.cluster)];
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid[0] as u32,
            gridDimY: self.grid[1] as u32,
            gridDimZ: self.grid[2] as u32,
            blockDimX: self.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes as u32,
            hStream: self.device.stream,
            attrs: attributes.as_mut_ptr(),
            // Before Hopper kernels cannot say that their successor may begin. A kernel may have clusters of its own.
            numAttrs: match self.device.facts.capability >= (9, 0) {
                true => 1 + u32::from(self.cluster > 1),
                false => 0,
            },
        };
        // SAFETY: grid and arguments are those of the kernel (a test launches each); every pointer among them is into a
        // buffer that was checked to be long enough and that outlives the stream's work, because freeing waits.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function.0,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}

impl Function {
    /// Asks for so much shared memory; for all of a multiprocessor's, so that kernels fit beside one another.
    fn allow_shared(self, bytes: usize) -> Result<(), BackendError> {
        use sys::CUfunction_attribute as Attribute;
        for (attribute, value) in [
            (
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                bytes as i32,
            ),
            (Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100),
        ] {
            // SAFETY: the function is of a module that lives as long as the device.
            check("cuFuncSetAttribute", unsafe {
                sys::cuFuncSetAttribute(self.0, attribute, value)
            })?;
        }
        Ok(())
    }

    /// How many clusters of `blocks` blocks run at once on an otherwise idle GPU, each block with `shared_bytes` of shared memory.
    pub(super) fn active_clusters(self, blocks: usize, shared_bytes: usize) -> Result<usize, BackendError> {
        self.allow_shared(shared_bytes)?;
        let mut attributes = [cluster_of(blocks)];
        let config = sys::CUlaunchConfig {
            gridDimX: blocks as u32,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes as u32,
            hStream: ptr::null_mut(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: 1,
        };
        let mut count = 0;
        // SAFETY: the function is of a module that lives as long as the device.
        check("cuOccupancyMaxActiveClusters", unsafe {
            sys::cuOccupancyMaxActiveClusters(&raw mut count, self.0, &raw const config)
        })?;
        Ok(count as usize)
    }
}

/// Lets a kernel begin before its predecessor has ended; `await_predecessor` in common.cuh keeps the order.
fn programmatic_serialization() -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: 1,
        },
    }
}

fn cluster_of(blocks: usize) -> sys::CUlaunchAttribute {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.clusterDim.x = blocks as u32;
    value.clusterDim.y = 1;
    value.clusterDim.z = 1;
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    }
}
