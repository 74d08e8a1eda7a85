use ferrum_kernels::{Backend, BackendError};

use super::Linear;
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

    /// x, out `(rows, hidden)`, out to be summed over ranks; scratch `(rows, 2 * intermediate)` and `(rows, intermediate)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        x: &B::Buffer,
        rows: usize,
        scratch: (&mut B::Buffer, &mut B::Buffer),
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        let (gate_up, activated) = scratch;
        let shape = (rows, self.intermediate_size);
        self.gate_up_proj
            .silu_mul_forward(backend, x, shape, (gate_up, &mut *activated))?;
        self.down_proj.forward(backend, activated, rows, out)
    }
}
