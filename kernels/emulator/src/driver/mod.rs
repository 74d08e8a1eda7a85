//! The functions of `libcuda`, as far as the kernels' crate calls them.
//!
//! What a call asks of a stream happens later, in the stream's thread, as on a GPU. Handles are numbers, so that one that is
//! no longer, or never was, is an answer and not a crash.

// The driver's names.
#![allow(non_snake_case)]

mod answer;
mod capture;
mod copies;
mod device;
mod event;
mod launch;
mod module;
mod stream;
mod tensor;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Handles, give};
pub(crate) use capture::forbid_beside_any;
pub(crate) use copies::is_allocated;
pub(crate) use device::current;
pub(crate) use stream::stream;
