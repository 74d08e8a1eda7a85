//! The attention operations on the CPU.
