//! Launches of kernels.

use std::{
    ffi::{c_int, c_void},
    slice,
    sync::{Arc, atomic::Ordering},
};

use cudarc::driver::sys::{CUfunction, CUlaunchAttributeID as Id, CUlaunchConfig, CUresult};

use super::{
    answer::{Answer, code, give},
    device::current,
    module::{FUNCTIONS, Function},
    stream::{Stream, stream},
};
use crate::{
    machine::{self, Launch},
    ptx::Kernel,
};

const MOST_THREADS: u32 = 1024;
const MOST_THREADS_ALONG_Z: u32 = 64;
const MOST_BLOCKS_ALONG_X: u32 = i32::MAX as u32;
const MOST_BLOCKS_ACROSS: u32 = 65535;
/// That every GPU with clusters has room for.
const MOST_BLOCKS_OF_A_CLUSTER: u32 = 8;

/// What a launch is but for its arguments.
#[derive(Clone, Copy)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared_bytes: u32,
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    handle: CUfunction,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    // SAFETY: the caller's.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    };
    let launch = |stream: Arc<Stream>| {
        let function = FUNCTIONS.get(handle)?;
        // SAFETY: the caller's.
        let shape = unsafe { shape(config) };
        shape.check(&function)?;
        if !extra.is_null() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        // SAFETY: the caller's.
        let arguments = unsafe { arguments(&function.kernel, parameters) }?;
        let kernel = Arc::clone(&function.kernel);
        stream.ask(move || {
            let launch = Launch {
                grid: shape.grid,
                block: shape.block,
                cluster: shape.cluster[0],
                shared_bytes: shape.shared_bytes,
                arguments: &arguments,
            };
            machine::run(&kernel, &launch).map_err(|fault| fault.to_string())
        })
    };
    code(stream(config.hStream).and_then(launch))
}

/// How many clusters run at once if a block fills a multiprocessor.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuOccupancyMaxActiveClusters(
    count: *mut c_int,
    handle: CUfunction,
    config: *const CUlaunchConfig,
) -> CUresult {
    // SAFETY: the caller's.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    };
    let clusters = || {
        // SAFETY: the caller's.
        let shape = unsafe { shape(config) };
        shape.check(&*FUNCTIONS.get(handle)?)?;
        Ok(current()?.clusters(shape.cluster[0] as usize))
    };
    // SAFETY: the caller's.
    code(clusters().and_then(|clusters| unsafe { give(count, clusters as c_int) }))
}

/// # Safety
/// `config` has as many attributes as it says.
unsafe fn shape(config: &CUlaunchConfig) -> Shape {
    let mut shape = Shape {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        cluster: [1; 3],
        shared_bytes: config.sharedMemBytes,
    };
    let count = if config.attrs.is_null() {
        0
    } else {
        config.numAttrs
    };
    for i in 0..count as usize {
        // SAFETY: the caller's.
        let attribute = unsafe { &*config.attrs.add(i) };
        if attribute.id == Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION {
            // SAFETY: the member that the id says.
            let cluster = unsafe { attribute.value.clusterDim };
            shape.cluster = [cluster.x, cluster.y, cluster.z];
        }
    }
    shape
}

impl Shape {
    fn check(&self, function: &Function) -> Answer {
        let Self {
            grid, block, cluster, ..
        } = *self;
        let most = [MOST_BLOCKS_ALONG_X, MOST_BLOCKS_ACROSS, MOST_BLOCKS_ACROSS];
        let grid_fits = grid
            .iter()
            .zip(most)
            .all(|(&blocks, most)| (1..=most).contains(&blocks));
        let threads = block.iter().try_fold(1_u32, |product, &n| product.checked_mul(n));
        let block_fits = threads.is_some_and(|threads| (1..=MOST_THREADS).contains(&threads))
            && block[2] <= MOST_THREADS_ALONG_Z;
        let cluster_fits = (1..=MOST_BLOCKS_OF_A_CLUSTER).contains(&cluster[0])
            && cluster[1..] == [1; 2]
            && grid[0].is_multiple_of(cluster[0]);
        let shared_fits = self.shared_bytes <= function.most_shared_bytes.load(Ordering::Relaxed);
        match grid_fits && block_fits && cluster_fits && shared_fits {
            true => Ok(()),
            false => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
}

/// The arguments as the kernel's parameters lie.
///
/// # Safety
/// `parameters` points to as many values as the kernel has parameters, each as large as that.
unsafe fn arguments(kernel: &Kernel, parameters: *mut *mut c_void) -> Answer<Vec<u8>> {
    let ends = kernel
        .parameters
        .iter()
        .map(|parameter| parameter.offset + parameter.size);
    let mut arguments = vec![0; ends.max().unwrap_or(0)];
    if parameters.is_null() && !arguments.is_empty() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    for (i, parameter) in kernel.parameters.iter().enumerate() {
        // SAFETY: the caller's.
        let value = unsafe { parameters.add(i).read() };
        if value.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's.
        let value = unsafe { slice::from_raw_parts(value.cast::<u8>(), parameter.size) };
        arguments[parameter.offset..][..parameter.size].copy_from_slice(value);
    }
    Ok(arguments)
}
