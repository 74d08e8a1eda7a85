use ferrum_kernels::{Backend, BackendError};

use crate::{LoadError, weights::loader::WeightLoader};

/// RMS norm of rows of `width`.
pub(crate) struct RmsNorm<B: Backend> {
    weight: B::Buffer, // (width)
    width: usize,
    eps: f32,
}

impl<B: Backend> RmsNorm<B> {
    /// Loads `<name>.weight`.
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            weight: loader.vector(&[(format!("{name}.weight"), width.into())])?,
            width,
            eps,
        })
    }

    /// x, out `(rows, width)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        rows: usize,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        backend.rms_norm(x, &self.weight, self.eps, (rows, self.width), out)
    }

    /// `residual += x`, summed over ranks, then the norm of it; all `(rows, width)`.
    pub(crate) fn add_forward(
        &self,
        backend: &B,
        x: &mut B::Buffer,
        residual: &mut B::Buffer,
        rows: usize,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        backend.all_reduce_add_norm(x, residual, &self.weight, self.eps, (rows, self.width), out)
    }
}

/// Layer norm of rows of `width`.
pub(crate) struct LayerNorm<B: Backend> {
    weight: B::Buffer, // (width)
    bias: B::Buffer,   // (width)
    width: usize,
    eps: f32,
}

impl<B: Backend> LayerNorm<B> {
    /// Loads `<name>.weight` and `<name>.bias`.
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            weight: loader.vector(&[(format!("{name}.weight"), width.into())])?,
            bias: loader.vector(&[(format!("{name}.bias"), width.into())])?,
            width,
            eps,
        })
    }

    /// x, out `(rows, width)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        rows: usize,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        backend.layer_norm(x, (&self.weight, &self.bias), self.eps, (rows, self.width), out)
    }
}
