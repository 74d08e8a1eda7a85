//! Normalisation.

use crate::{
    backend::BackendError,
    cuda::{CudaBackend, CudaBuffer},
    ops::{ActivationOps, HeadLayout, NormOps},
};

/// Threads for a row: each has four elements, if they are not too many.
pub(super) fn row_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 1024)
}

impl NormOps for CudaBackend {
    fn rms_norm(
        &self,
        x: &CudaBuffer,
        weight: &CudaBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        x.check("rms_norm: x", rows * width)?;
        weight.check("rms_norm: weight", width)?;
        out.check("rms_norm: out", rows * width)?;
        let name = format!("rms_norm_{}_{}", x.element().name(), out.element().name());
        self.device
            .kernel(&name)?
            .grid(rows, 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(weight.address())
            .float(eps)
            .int(width)
            .wide(out.address())
            .run()
    }

    fn add_rms_norm(
        &self,
        x: &CudaBuffer,
        residual: &mut CudaBuffer,
        weight: &CudaBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        x.check("add_rms_norm: x", rows * width)?;
        residual.check("add_rms_norm: residual", rows * width)?;
        weight.check("add_rms_norm: weight", width)?;
        out.check("add_rms_norm: out", rows * width)?;
        if x.element() != out.element() {
            self.add(x, residual, rows * width)?;
            return self.rms_norm(residual, weight, eps, (rows, width), out);
        }
        let name = format!(
            "add_rms_norm_{}_{}",
            x.element().name(),
            residual.element().name()
        );
        self.device
            .kernel(&name)?
            .grid(rows, 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(residual.address())
            .wide(weight.address())
            .float(eps)
            .int(width)
            .wide(out.address())
            .run()
    }

    fn layer_norm(
        &self,
        x: &CudaBuffer,
        (weight, bias): (&CudaBuffer, &CudaBuffer),
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        x.check("layer_norm: x", rows * width)?;
        weight.check("layer_norm: weight", width)?;
        bias.check("layer_norm: bias", width)?;
        out.check("layer_norm: out", rows * width)?;
        same_element("layer_norm", x, out)?;
        self.device
            .kernel(&format!("layer_norm_{}", x.element().name()))?
            .grid(rows, 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(weight.address())
            .wide(bias.address())
            .float(eps)
            .int(width)
            .wide(out.address())
            .run()
    }

    fn qk_norm(
        &self,
        qkv: &mut CudaBuffer,
        heads: HeadLayout,
        (q_weight, k_weight): (&CudaBuffer, &CudaBuffer),
        eps: f32,
        rows: usize,
    ) -> Result<(), BackendError> {
        qkv.check("qk_norm: qkv", rows * heads.qkv_width())?;
        q_weight.check("qk_norm: q_weight", heads.head_dim)?;
        k_weight.check("qk_norm: k_weight", heads.head_dim)?;
        self.device
            .kernel(&format!("qk_norm_{}", qkv.element().name()))?
            .grid(rows, (heads.num_heads + heads.num_kv_heads).div_ceil(4), 1)
            .wide(qkv.address())
            .wide(q_weight.address())
            .wide(k_weight.address())
            .float(eps)
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .run()
    }
}

/// Refuses two buffers of which a kernel wants one element type.
pub(super) fn same_element(what: &str, x: &CudaBuffer, out: &CudaBuffer) -> Result<(), BackendError> {
    if x.element() != out.element() {
        return Err(BackendError::Shape(format!(
            "{what}: x is {}, out is {}",
            x.element().name(),
            out.element().name()
        )));
    }
    Ok(())
}
