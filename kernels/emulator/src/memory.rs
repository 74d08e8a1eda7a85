//! The memory that kernels may use: device allocations and pinned host memory, by their addresses in this process.
