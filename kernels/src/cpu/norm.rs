//! The norm operations on the CPU.
