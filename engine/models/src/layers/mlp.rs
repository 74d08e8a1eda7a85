use ferrum_kernels::{Backend, BackendError};

use super::{Hidden, Linear, RmsNorm};
use crate::{LoadError, shard::Extent, weights::loader::WeightLoader};

/// `down(silu(gate(x)) * up(x))`, gate and up fused; of a rank's own inner elements.
pub(crate) struct GatedMlp<B: Backend> {
    gate_up_proj: Linear<B>,
    down_proj: Linear<B>,
    intermediate_size: usize,
}

impl<B: Backend> GatedMlp<B> {
    /// Loads `<prefix>gate_proj`, `up_proj` (intermediate, hidden) and `down_proj` (hidden, intermediate).
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        prefix: &str,
        (hidden, intermediate): (usize, Extent),
        biased: bool,
    ) -> Result<Self, LoadError> {
        let gate_up = [("gate_proj", intermediate), ("up_proj", intermediate)];
        Ok(Self {
            gate_up_proj: Linear::load(loader, prefix, &gate_up, hidden.into(), biased)?,
            down_proj: Linear::load(
                loader,
                prefix,
                &[("down_proj", hidden.into())],
                intermediate,
                biased,
            )?,
            intermediate_size: intermediate.len,
        })
    }

    /// Between the norms of its input and of the next block's, if one follows; scratch `(rows, 2 * intermediate)` and
    /// `(rows, intermediate)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        rows: usize,
        (hidden, next): (&mut Hidden<B>, Option<&RmsNorm<B>>),
        (gate_up, activated): (&mut B::Buffer, &mut B::Buffer),
    ) -> Result<(), BackendError> {
        let shape = (rows, self.intermediate_size);
        let scratch = (gate_up, &mut *activated);
        self.gate_up_proj
            .silu_mul_forward(backend, &mut hidden.normed, shape, scratch)?;
        self.down_proj.add_forward(backend, activated, rows, hidden, next)
    }
}
