//! From named tensors to prepared weights.

use ferrum_engine::{Dtype, OutputLayer};
use ferrum_kernels::{
    Backend, BackendError,
    backend::{KvDtype, KvPrecision},
    ops::Normed,
};

use super::{
    Weights,
    convert::{to_dtype, to_int8},
};
use crate::{LoadError, LoadOptions, shard::Extent};

/// Takes tensors by name, converts and uploads them, and counts them for the progress bar.
pub(crate) struct WeightLoader<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) weights: &'a Weights,
    dtype: Dtype,
    output_layer: OutputLayer,
    progress: Option<&'a dyn Fn(u64, u64)>,
}

impl<'a, B: Backend> WeightLoader<'a, B> {
    pub(crate) fn new(backend: &'a B, weights: &'a Weights, options: &LoadOptions<'a>) -> Self {
        Self {
            backend,
            weights,
            dtype: options.dtype,
            output_layer: options.output_layer,
            progress: options.progress,
        }
    }

    /// Matrices `(rows, cols)`, or parts of them, stacked along their rows, as one weight.
    pub(crate) fn matrix(&self, parts: &[(String, Extent)], cols: Extent) -> Result<B::Weight, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            tensors.push(to_dtype(self.weights.matrix(name, *rows, cols)?, self.dtype));
        }
        let weight = self
            .backend
            .prepare_weight(&tensors)
            .map_err(|source| self.failed(&parts[0].0, source))?;
        self.report();
        Ok(weight)
    }

    /// Whether the output layer `name` is to be kept in another format than the checkpoint's.
    pub(crate) fn changes_output_layer(&self, name: &str) -> bool {
        self.output_layer == OutputLayer::Int8 && self.weights.largest_block(name) == 1
    }

    /// Rows of the output layer, as [`LoadOptions::output_layer`] wants them.
    pub(crate) fn output_layer(
        &self,
        name: &str,
        rows: Extent,
        cols: Extent,
    ) -> Result<B::Weight, LoadError> {
        let tensor = to_dtype(self.weights.matrix(name, rows, cols)?, self.dtype);
        let tensor = match self.changes_output_layer(name) {
            true => to_int8(tensor),
            false => tensor,
        };
        let weight = self
            .backend
            .prepare_weight(&[tensor])
            .map_err(|source| self.failed(name, source))?;
        self.report();
        Ok(weight)
    }

    /// Vectors, or parts of them, one after the other.
    pub(crate) fn vector(&self, parts: &[(String, Extent)]) -> Result<B::Buffer, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for (name, len) in parts {
            tensors.push(self.weights.vector(name, *len)?);
        }
        let vector = self
            .backend
            .prepare_vector(&tensors)
            .map_err(|source| self.failed(&parts[0].0, source))?;
        self.report();
        Ok(vector)
    }

    /// Checks vectors that another rank takes.
    pub(crate) fn pass_over(&self, parts: &[(String, Extent)]) -> Result<(), LoadError> {
        let check = |(name, len): &(String, Extent)| self.weights.vector(name, *len).map(drop);
        parts.iter().try_for_each(check)
    }

    /// An activation buffer of `len` elements; `what` is for the message when there is no room.
    pub(crate) fn alloc(&self, what: &str, len: usize) -> Result<B::Buffer, LoadError> {
        self.backend
            .alloc(len)
            .map_err(|source| self.failed(what, source))
    }

    /// As [`Self::alloc`], for what is summed over layers and for logits.
    pub(crate) fn alloc_f32(&self, what: &str, len: usize) -> Result<B::Buffer, LoadError> {
        self.backend
            .alloc_f32(len)
            .map_err(|source| self.failed(what, source))
    }

    /// As [`Self::alloc`], for what a norm leaves.
    pub(crate) fn alloc_normed(&self, what: &str, rows: usize, width: usize) -> Result<Normed<B>, LoadError> {
        self.backend
            .alloc_normed(rows, width)
            .map_err(|source| self.failed(what, source))
    }

    /// Keys and values are exact beside dense weights; beside quantized ones half precision is not what limits.
    pub(crate) fn kv_dtype(&self) -> KvDtype {
        self.backend.kv_dtype(match self.weights.is_quantized() {
            true => KvPrecision::Quantized,
            false => KvPrecision::Exact,
        })
    }

    pub(crate) fn failed(&self, what: &str, source: BackendError) -> LoadError {
        LoadError::Backend {
            what: format!("{}: {what}", self.weights.path().display()),
            source,
        }
    }

    fn report(&self) {
        if let Some(progress) = self.progress {
            progress(self.weights.taken() as u64, self.weights.len() as u64);
        }
    }
}
