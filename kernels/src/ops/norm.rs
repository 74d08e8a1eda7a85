//! Normalisation over the last dimension.

use crate::{
    backend::{BackendError, BackendTypes},
    ops::{ActivationOps, HeadLayout},
};

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
