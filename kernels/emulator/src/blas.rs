//! The functions of `libcublasLt`.
