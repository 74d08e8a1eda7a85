//! A CUDA driver for tests on machines without a GPU: the functions of `libcuda`, `libcublasLt` and `libnccl` that the kernels'
//! crate calls, with kernels run from their PTX on the CPU, a Hopper's instructions included.
//!
//! It checks what a GPU would not: every address that a kernel uses lies within an allocation, and what is asked for
//! asynchronously (copies into shared memory, tensor-core products of four warps) happens as late as it may, so that a
//! missing wait is a wrong result. It says nothing about speed.

// Memory by its address, and the driver's functions for those who load them, cannot do without.
#![allow(unsafe_code)]

mod blas;
mod driver;
mod element;
mod machine;
mod matrix;
mod memory;
mod nccl;
mod ptx;
mod tensor_map;
