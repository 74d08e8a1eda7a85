//! Matrices as copies of tiles see them.
