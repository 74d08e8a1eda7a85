//! Pooling.

use crate::{
    backend::BackendError,
    cuda::{CudaBackend, CudaBuffer, CudaIndices, norm::same_element},
    ops::PoolingOps,
};

const THREADS: usize = 128;

impl PoolingOps for CudaBackend {
    fn mean_pool(
        &self,
        x: &CudaBuffer,
        cu_seqlens: &CudaIndices,
        num_seqs: usize,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        cu_seqlens.check("mean_pool: cu_seqlens", num_seqs + 1)?;
        out.check("mean_pool: out", num_seqs * width)?;
        same_element("mean_pool", x, out)?;
        self.device
            .kernel(&format!("mean_pool_{}", x.element().name()))?
            .grid(width.div_ceil(THREADS), num_seqs, 1)
            .threads(THREADS)
            .wide(x.address())
            .wide(cu_seqlens.address())
            .int(width)
            .wide(out.address())
            .run()
    }

    fn l2_normalize(&self, x: &mut CudaBuffer, rows: usize, width: usize) -> Result<(), BackendError> {
        x.check("l2_normalize: x", rows * width)?;
        self.device
            .kernel(&format!("l2_normalize_{}", x.element().name()))?
            .grid(rows, 1, 1)
            .threads(THREADS)
            .wide(x.address())
            .int(width)
            .run()
    }
}
