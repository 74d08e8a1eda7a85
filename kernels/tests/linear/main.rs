//! `linear` and `embed` of the CPU backend against f64 arithmetic on dequantized weights, and their promise
//! that a row's bits depend on nothing but the row.

mod extremes;
mod fixture;
mod invariance;
mod shapes;
#[path = "../support/mod.rs"]
mod support;
mod weights;
