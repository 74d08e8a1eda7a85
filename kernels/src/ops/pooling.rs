//! From token vectors to one vector a sequence.

use crate::backend::{BackendError, BackendTypes};

/// Pooling and its normalisation.
pub trait PoolingOps: BackendTypes {
    /// Mean of each sequence's rows: x `(rows, width)`, cu_seqlens `(num_seqs + 1)`, out `(num_seqs, width)`.
    fn mean_pool(
        &self,
        x: &Self::Buffer,
        cu_seqlens: &Self::Indices,
        num_seqs: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Scales each row to unit Euclidean length, in place; a row of zeros stays so.
    fn l2_normalize(&self, x: &mut Self::Buffer, rows: usize, width: usize) -> Result<(), BackendError>;
}
