//! Element-wise operations and row moves.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices,
        norm::{row_threads, same_element},
    },
    ops::{ActivationOps, Gelu},
};

const THREADS: usize = 256;
/// Blocks of a kernel that strides over its elements.
const MAX_BLOCKS: usize = 4096;

impl ActivationOps for CudaBackend {
    fn add(&self, x: &CudaBuffer, y: &mut CudaBuffer, len: usize) -> Result<(), BackendError> {
        x.check("add: x", len)?;
        y.check("add: y", len)?;
        self.device
            .kernel(&format!("add_{}_{}", x.element().name(), y.element().name()))?
            .grid(len.div_ceil(4 * THREADS).min(MAX_BLOCKS), 1, 1)
            .threads(THREADS)
            .wide(x.address())
            .wide(y.address())
            .wide(len as u64)
            .run()
    }

    fn silu_mul(
        &self,
        gate_up: &CudaBuffer,
        rows: usize,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        gate_up.check("silu_mul: gate_up", rows * 2 * width)?;
        out.check("silu_mul: out", rows * width)?;
        same_element("silu_mul", gate_up, out)?;
        self.device
            .kernel(&format!("silu_mul_{}", out.element().name()))?
            .grid(width.div_ceil(4 * THREADS), rows, 1)
            .threads(THREADS)
            .wide(gate_up.address())
            .int(width)
            .wide(out.address())
            .run()
    }

    fn gelu(&self, x: &mut CudaBuffer, kind: Gelu, len: usize) -> Result<(), BackendError> {
        x.check("gelu: x", len)?;
        let kind = match kind {
            Gelu::Erf => 0,
            Gelu::Quick => 1,
            Gelu::Tanh => 2,
        };
        self.device
            .kernel(&format!("gelu_{}", x.element().name()))?
            .grid(len.div_ceil(THREADS).min(MAX_BLOCKS), 1, 1)
            .threads(THREADS)
            .wide(x.address())
            .int(kind)
            .wide(len as u64)
            .run()
    }

    fn gather_rows(
        &self,
        x: &CudaBuffer,
        indices: &CudaIndices,
        rows: usize,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        indices.check("gather_rows: indices", rows)?;
        out.check("gather_rows: out", rows * width)?;
        self.device
            .kernel(&format!(
                "gather_rows_{}_{}",
                x.element().name(),
                out.element().name()
            ))?
            .grid(rows, 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(indices.address())
            .int(width)
            .wide(out.address())
            .run()
    }
}
