use ferrum_kernels::{
    Backend, BackendError,
    ops::{LinearArguments, Normed},
};

use super::{Hidden, RmsNorm};
use crate::{LoadError, shard::Extent, weights::loader::WeightLoader};

/// A linear layer, possibly several fused along their outputs.
pub(crate) struct Linear<B: Backend> {
    weight: B::Weight, // (sum of rows, cols)
    bias: Option<B::Buffer>,
}

impl<B: Backend> Linear<B> {
    /// Loads `<prefix><part>.weight` (rows, cols) of each part, stacked, and their biases if there are to be any.
    ///
    /// With a part of the columns the products are parts of a sum over ranks, to which one rank adds the biases.
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        prefix: &str,
        parts: &[(&str, Extent)],
        cols: Extent,
        biased: bool,
    ) -> Result<Self, LoadError> {
        let named = |end: &str| -> Vec<(String, Extent)> {
            parts
                .iter()
                .map(|(part, rows)| (format!("{prefix}{part}.{end}"), *rows))
                .collect()
        };
        Ok(Self {
            weight: loader.matrix(&named("weight"), cols)?,
            bias: match biased {
                true if cols.is_whole() || loader.backend.rank().index == 0 => {
                    Some(loader.vector(&named("bias"))?)
                }
                true => loader.pass_over(&named("bias")).map(|()| None)?,
                false => None,
            },
        })
    }

    /// x `(rows, cols)`, out `(rows, outputs)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        rows: usize,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        backend.linear(x, &self.weight, self.bias.as_ref(), rows, out)
    }

    /// As [`Self::forward`], of rows that a norm has left.
    pub(crate) fn normed_forward(
        &self,
        backend: &B,
        x: &mut Normed<B>,
        rows: usize,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        backend.normed_linear(x, &self.weight, self.bias.as_ref(), rows, out)
    }

    /// Ends a block: its product with x `(rows, cols)` is added to `hidden`, and normed if a block with `norm` follows.
    pub(crate) fn add_forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        rows: usize,
        hidden: &mut Hidden<B>,
        norm: Option<&RmsNorm<B>>,
    ) -> Result<(), BackendError> {
        let Some(norm) = norm else {
            return self.forward(backend, x, rows, &mut hidden.added);
        };
        let product = LinearArguments {
            x,
            weight: &self.weight,
            bias: self.bias.as_ref(),
        };
        hidden.add(backend, product, rows, norm)
    }

    /// `out = silu(gate) * up` of its two halves: x `(rows, cols)`, scratch `(rows, 2 * width)`, out `(rows, width)`.
    pub(crate) fn silu_mul_forward(
        &self,
        backend: &B,
        x: &mut Normed<B>,
        shape: (usize, usize),
        buffers: (&mut B::Buffer, &mut B::Buffer),
    ) -> Result<(), BackendError> {
        backend.normed_linear_silu_mul(x, &self.weight, self.bias.as_ref(), shape, buffers)
    }
}
