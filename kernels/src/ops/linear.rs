//! Matrix products against prepared weights.

use crate::backend::{BackendError, BackendTypes};

/// Products with a prepared weight of `n` rows and `k` columns.
pub trait LinearOps: BackendTypes {
    /// `out = x . weight^T + bias`: x `(rows, k)`, bias `(n)`, out `(rows, n)`.
    fn linear(
        &self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Rows `ids` of an embedding table: ids `(rows)`, out `(rows, k)`.
    ///
    /// Ids are checked against the vocabulary at the door, before a step is built.
    fn embed(
        &self,
        table: &Self::Weight,
        ids: &Self::Indices,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;
}
