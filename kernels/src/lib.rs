//! The [`Backend`] trait and the kernels below it.
//!
//! Everything above this crate (layers, models, scheduler) sees activations as handles to buffers that
//! were allocated once, and launches a fixed sequence of operations a step; it never touches element
//! data. Weights enter once, through [`Backend::prepare_weight`], where a backend packs them its own way
//! or refuses with the reason.
//!
//! - [`backend`]: the trait, and one trait a group of operations under [`ops`].
//! - [`tensor`]: what a checkpoint holds: formats, shapes, shared (mapped) bytes.
//! - [`cpu`]: the CPU backend.
//! - `cuda`: the CUDA backend, with the feature of that name.

pub mod backend;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod exchange;
pub mod ops;
pub mod tensor;

pub use backend::{Backend, BackendError};
pub use tensor::{HostTensor, SharedBytes, WeightFormat};
