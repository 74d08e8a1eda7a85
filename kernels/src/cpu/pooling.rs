//! The pooling operations on the CPU.
