//! The sampling operations on the CPU.
