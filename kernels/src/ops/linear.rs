//! Matrix products against prepared weights.

use crate::{
    backend::{BackendError, BackendTypes},
    ops::{ActivationOps, Normed},
};

/// What goes into a product: x `(rows, k)`, weight `(n, k)`, bias `(n)`.
pub struct LinearArguments<'a, B: BackendTypes + ?Sized> {
    /// `(rows, k)`.
    pub x: &'a B::Buffer,
    /// `(n, k)`.
    pub weight: &'a B::Weight,
    /// `(n)`.
    pub bias: Option<&'a B::Buffer>,
}

/// Products with a prepared weight of `n` rows and `k` columns.
pub trait LinearOps: ActivationOps {
    /// `out = x . weight^T + bias`: x `(rows, k)`, bias `(n)`, out `(rows, n)`.
    fn linear(
        &self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = silu(gate) * up`, where gate and up `(rows, width)` are the halves of `x . weight^T + bias`: x `(rows, k)`,
    /// weight `(2 * width, k)`, scratch `(rows, 2 * width)`, out `(rows, width)`.
    fn linear_silu_mul(
        &self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        (rows, width): (usize, usize),
        (scratch, out): (&mut Self::Buffer, &mut Self::Buffer),
    ) -> Result<(), BackendError> {
        self.linear(x, weight, bias, rows, scratch)?;
        self.silu_mul(scratch, rows, width, out)
    }

    /// As [`Self::linear`], of rows that a norm has left; pays what they are owed.
    fn normed_linear(
        &self,
        x: &mut Normed<Self>,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        self.linear(&x.rows, weight, bias, rows, out)
    }

    /// As [`Self::linear_silu_mul`], of rows that a norm has left; pays what they are owed.
    fn normed_linear_silu_mul(
        &self,
        x: &mut Normed<Self>,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        shape: (usize, usize),
        buffers: (&mut Self::Buffer, &mut Self::Buffer),
    ) -> Result<(), BackendError> {
        self.linear_silu_mul(&x.rows, weight, bias, shape, buffers)
    }

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
