//! The functions of `libcuda`.
