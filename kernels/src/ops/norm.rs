//! Normalisation over the last dimension.

use crate::{
    backend::{BackendError, BackendTypes},
    ops::{ActivationOps, HeadLayout},
};

/// Rows that have passed an RMS norm, for the products after it. A device may owe them what the norm multiplies a row by:
/// it commutes with the next product, whose results then get it.
pub struct Normed<B: BackendTypes + ?Sized> {
    /// `(rows, width)`.
    pub(crate) rows: B::Buffer,
    /// Sums of squares of the rows before the norm, where a factor is owed.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) squares: B::Buffer,
    pub(crate) owed: Option<OwedScale>,
}

/// What `rows` of [`Normed`] are still to be multiplied by: `1 / sqrt(mean of squares + eps)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct OwedScale {
    /// Sums of squares of a row.
    pub(crate) parts: usize,
    pub(crate) eps: f32,
}

impl<B: BackendTypes + ?Sized> Normed<B> {
    /// Nothing is owed to `rows`; `squares` has room for what a device notes down for the rows that it owes something.
    pub(crate) fn new(rows: B::Buffer, squares: B::Buffer) -> Self {
        Self {
            rows,
            squares,
            owed: None,
        }
    }

    /// The rows, for an operation that writes them whole.
    pub fn whole(&mut self) -> &mut B::Buffer {
        self.owed = None;
        &mut self.rows
    }
}

/// An RMS norm: its weight `(width)`, and what is added to the mean of squares.
pub struct RmsNormWeight<'a, B: BackendTypes + ?Sized> {
    /// `(width)`.
    pub weight: &'a B::Buffer,
    /// Above zero.
    pub eps: f32,
}

/// Row-wise normalisation.
pub trait NormOps: BackendTypes + ActivationOps {
    /// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019): x, out `(rows, width)`,
    /// weight `(width)`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        shape: (usize, usize),
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `residual += x`, then `out = rms_norm(residual)`.
    fn add_rms_norm(
        &self,
        x: &Self::Buffer,
        residual: &mut Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        shape: (usize, usize),
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        self.add(x, residual, shape.0 * shape.1)?;
        self.rms_norm(residual, weight, eps, shape, out)
    }

    /// `out = (x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016): x, out `(rows, width)`,
    /// weight, bias `(width)`.
    fn layer_norm(
        &self,
        x: &Self::Buffer,
        affine: (&Self::Buffer, &Self::Buffer),
        eps: f32,
        shape: (usize, usize),
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// RMS norm of each query head and each key head of `qkv` in place, before rotation (Qwen3):
    /// qkv `(rows, q heads + 2 kv heads, head_dim)`, q_weight, k_weight `(head_dim)`.
    fn qk_norm(
        &self,
        qkv: &mut Self::Buffer,
        heads: HeadLayout,
        weights: (&Self::Buffer, &Self::Buffer),
        eps: f32,
        rows: usize,
    ) -> Result<(), BackendError>;
}
