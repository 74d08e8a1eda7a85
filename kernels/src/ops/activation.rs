//! Element-wise operations and row moves.

use crate::backend::{BackendError, BackendTypes};

/// Which Gaussian error linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x * Phi(x)`, with the error function.
    Erf,
    /// `x * sigmoid(1.702 x)`.
    Quick,
    /// The tanh approximation.
    Tanh,
}

/// Element-wise operations and row moves.
pub trait ActivationOps: BackendTypes {
    /// `y += x` over `len` elements.
    fn add(&self, x: &Self::Buffer, y: &mut Self::Buffer, len: usize) -> Result<(), BackendError>;

    /// `out = silu(gate) * up`: gate_up `(rows, 2 * width)` with gate first, out `(rows, width)`.
    fn silu_mul(
        &self,
        gate_up: &Self::Buffer,
        rows: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// GELU in place over `len` elements.
    fn gelu(&self, x: &mut Self::Buffer, kind: Gelu, len: usize) -> Result<(), BackendError>;

    /// `out[i] = x[indices[i]]`: x `(_, width)`, indices `(rows)`, out `(rows, width)`.
    fn gather_rows(
        &self,
        x: &Self::Buffer,
        indices: &Self::Indices,
        rows: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;
}
