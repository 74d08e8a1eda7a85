//! Blocks, warps and lanes: runs a kernel.

use crate::ptx::Kernel;

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

/// Runs all blocks to their ends. Kernels of other devices may run at the same time, in other threads, and be waited for.
pub(crate) fn run(_kernel: &Kernel, _launch: &Launch<'_>) -> Result<(), Fault> {
    Ok(())
}
