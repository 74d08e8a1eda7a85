//! Blocks, warps and lanes: runs a kernel.

/// An array of what an expression is for each lane. No function, so that the loop becomes vectors whatever the expression.
macro_rules! each {
    (|$lane:ident| $value:expr) => {{
        let mut lanes = [0; _];
        for ($lane, place) in lanes.iter_mut().enumerate() {
            *place = $value;
        }
        lanes
    }};
}

mod access;
mod asynchronous;
mod barriers;
mod cluster;
mod copies;
mod exchange;
pub(crate) mod float;
mod longs;
mod memory;
mod products;
mod registers;
mod schedule;
mod step;
mod warp;
mod words;

use std::time::Instant;

use cluster::Shared;
use schedule::Schedule;

use crate::{
    memory::Found,
    ptx::{Kernel, Program},
};

/// A launch of a kernel.
pub(crate) struct Launch<'a> {
    /// Blocks along each dimension.
    pub(crate) grid: [u32; 3],
    /// Threads of a block along each dimension.
    pub(crate) block: [u32; 3],
    /// Blocks of a cluster, neighbours along x.
    pub(crate) cluster: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared_bytes: u32,
    /// The kernel's arguments, laid out as its parameters say.
    pub(crate) arguments: &'a [u8],
}

/// Why a kernel did not run to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kernel}, line {line} of its PTX, block {block:?}, thread {thread}: {what}")]
pub(crate) struct Fault {
    pub(crate) kernel: String,
    pub(crate) line: usize,
    pub(crate) block: [u32; 3],
    pub(crate) thread: u32,
    pub(crate) what: String,
}

/// A launch that runs.
struct Run<'a> {
    name: &'a str,
    program: &'a Program,
    grid: [u32; 3],
    block: [u32; 3],
    arguments: Shared,
    found: Found,
    begun: Instant,
    /// Whether the CPU has what loops over lanes are compiled for.
    #[cfg(target_arch = "x86_64")]
    has_fma: bool,
}

/// The most threads of a block, and bytes of its shared memory.
const MAX_THREADS: u64 = 1024;
const MAX_SHARED_BYTES: usize = 227 << 10;
/// The most blocks of a cluster.
const MAX_CLUSTER: u32 = 16;

/// Runs all blocks to their ends. Kernels of other devices may run at the same time, in other threads, and be waited for.
pub(crate) fn run(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), Fault> {
    let fault = |line: usize, what: String| Fault {
        kernel: kernel.name.clone(),
        line,
        block: [0; 3],
        thread: 0,
        what,
    };
    let program = kernel.program().map_err(|error| fault(error.line, error.what))?;
    let shared_bytes = program.shared_bytes + launch.shared_bytes as usize;
    let threads: u64 = launch.block.iter().map(|&threads| u64::from(threads)).product();
    let parameters = kernel.parameters.last().map_or(0, |last| last.offset + last.size);
    let wrong = match () {
        () if !(1..=MAX_THREADS).contains(&threads) => Some(format!("{threads} threads in a block")),
        () if launch.grid.contains(&0) => Some(format!("grid {:?}", launch.grid)),
        () if !(1..=MAX_CLUSTER).contains(&launch.cluster)
            || !launch.grid[0].is_multiple_of(launch.cluster) =>
        {
            Some(format!(
                "clusters of {} in a grid of {:?}",
                launch.cluster, launch.grid
            ))
        }
        () if shared_bytes > MAX_SHARED_BYTES => Some(format!("{shared_bytes} bytes of shared memory")),
        () if launch.arguments.len() < parameters => Some(format!(
            "{} bytes of arguments of {parameters}",
            launch.arguments.len()
        )),
        () => None,
    };
    if let Some(what) = wrong {
        return Err(fault(0, what));
    }
    let mut arguments = Shared::new(launch.arguments.len());
    arguments.bytes_mut().copy_from_slice(launch.arguments);
    let mut run = Run {
        name: &kernel.name,
        program,
        grid: launch.grid,
        block: launch.block,
        arguments,
        found: Found::default(),
        begun: Instant::now(),
        #[cfg(target_arch = "x86_64")]
        has_fma: has_fma(),
    };
    Schedule::new(&mut run, launch.cluster, shared_bytes).finish()
}

/// Whether the CPU has all that [`warp`] is compiled for.
#[cfg(target_arch = "x86_64")]
fn has_fma() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(test)]
mod tests;
