//! Sampling of the CPU backend.

mod distribution;
mod filters;
mod fixture;
mod greedy;
mod logprobs;
#[path = "../support/mod.rs"]
#[allow(dead_code)] // the other tests use the rest
mod support;
