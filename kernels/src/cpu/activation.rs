//! The activation operations on the CPU.
