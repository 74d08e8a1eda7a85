//! Rotary positions, the paged KV cache and attention of the CPU backend.

mod errors;
mod fixture;
mod invariance;
mod paged;
mod rope;
#[path = "../support/mod.rs"]
#[allow(dead_code)] // the other tests use the rest
mod support;
mod varlen;
