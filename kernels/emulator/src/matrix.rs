//! Products of tensor cores.
