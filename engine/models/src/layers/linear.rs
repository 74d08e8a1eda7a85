use ferrum_kernels::{Backend, BackendError};

use crate::{LoadError, weights::loader::WeightLoader};

/// A linear layer, possibly several fused along their outputs.
pub(crate) struct Linear<B: Backend> {
    weight: B::Weight, // (sum of rows, cols)
    bias: Option<B::Buffer>,
}

impl<B: Backend> Linear<B> {
    /// Loads `<prefix><part>.weight` (rows, cols) of each part, stacked, and their biases if there are to be any.
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        prefix: &str,
        parts: &[(&str, usize)],
        cols: usize,
        biased: bool,
    ) -> Result<Self, LoadError> {
        let named = |end: &str| -> Vec<(String, usize)> {
            parts
                .iter()
                .map(|(part, rows)| (format!("{prefix}{part}.{end}"), *rows))
                .collect()
        };
        Ok(Self {
            weight: loader.matrix(&named("weight"), cols)?,
            bias: biased.then(|| loader.vector(&named("bias"))).transpose()?,
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
}
