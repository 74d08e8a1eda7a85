use ferrum_kernels::{
    Backend, BackendError,
    ops::{LinearArguments, Normed, RmsNormWeight},
};

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
        out: &mut Normed<B>,
    ) -> Result<(), BackendError> {
        backend.rms_norm(x, &self.weight, self.eps, (rows, self.width), out.whole())
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

/// What the blocks of a decoder pass on, each `(rows, width)`.
pub(crate) struct Hidden<B: Backend> {
    /// What all blocks so far have added up to, once the last one's is added.
    pub(crate) residual: B::Buffer,
    /// The next block's input.
    pub(crate) normed: Normed<B>,
    /// What the last block adds, where no norm follows; else of no meaning.
    pub(crate) added: B::Buffer,
}

impl<B: Backend> Hidden<B> {
    pub(crate) fn alloc(loader: &WeightLoader<'_, B>, rows: usize, width: usize) -> Result<Self, LoadError> {
        let what = "activations";
        Ok(Self {
            residual: loader.alloc_f32(what, rows * width)?,
            normed: loader.alloc_normed(what, rows, width)?,
            added: loader.alloc(what, rows * width)?,
        })
    }

    /// Adds a block's last product, summed over ranks, and makes the next block's input with `norm`.
    pub(crate) fn add(
        &mut self,
        backend: &B,
        product: LinearArguments<'_, B>,
        rows: usize,
        norm: &RmsNorm<B>,
    ) -> Result<(), BackendError> {
        let RmsNorm { weight, width, eps } = norm;
        let (buffers, eps) = ((&mut self.added, &mut self.residual), *eps);
        let norm = RmsNormWeight { weight, eps };
        backend.linear_add_norm(product, norm, (rows, *width), buffers, &mut self.normed)
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
