//! What the devices that share one model exchange.
//!
//! Each holds a part of every matrix and computes the same steps; where a product is a sum over parts, the sum goes over
//! devices. On one device, which is what the provided methods are for, nothing is exchanged.

use crate::{
    backend::{BackendError, BackendTypes},
    ops::{LinearArguments, LinearOps, NormOps, Normed, RmsNormWeight},
};

/// One of the devices that share a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Counted from 0.
    pub index: usize,
    /// Devices in all.
    pub count: usize,
}

impl Rank {
    /// The only device.
    pub const ALONE: Self = Self { index: 0, count: 1 };
}

/// Which columns of a result a rank computes.
pub struct GatheredColumns<'a, B: BackendTypes + ?Sized> {
    /// `(rows, own columns)`: where a rank puts them before they are sent; not used on one device.
    pub part: &'a mut B::Buffer,
    /// Columns of this rank.
    pub own: std::ops::Range<usize>,
    /// Columns in all.
    pub total: usize,
}

/// Sums and gathers over ranks. Every rank calls the same operations with the same shapes in the same order.
///
/// Sums are taken in the order of ranks and rounded once, to the element type of `x`, however many elements there
/// are: so every rank has the same bits, and a row has them in any company.
pub trait CollectiveOps: BackendTypes + LinearOps + NormOps {
    /// `x` = the sum of every rank's `x`, over `len` elements.
    fn all_reduce(&self, x: &mut Self::Buffer, len: usize) -> Result<(), BackendError> {
        let _ = (x, len);
        Ok(())
    }

    /// `residual += ` the sum of every rank's `x`, then `out = rms_norm(residual)`: x, residual, out `(rows, width)`,
    /// weight `(width)`. Leaves `x` as it was or summed.
    fn all_reduce_add_norm(
        &self,
        x: &mut Self::Buffer,
        residual: &mut Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        shape: (usize, usize),
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        self.all_reduce(x, shape.0 * shape.1)?;
        self.add_rms_norm(x, residual, weight, eps, shape, out)
    }

    /// The first `len` indices of rank 0 on every rank, in place: what it has drawn.
    fn share_indices(&self, indices: &mut Self::Indices, len: usize) -> Result<(), BackendError> {
        let _ = (indices, len);
        Ok(())
    }

    /// `residual += ` the sum of every rank's `x . weight^T + bias`, then `out = rms_norm(residual)`, what it multiplies rows by
    /// perhaps owed: x `(rows, k)`, weight `(width, k)`, bias `(width)`, scratch, residual, out `(rows, width)`.
    fn linear_add_norm(
        &self,
        product: LinearArguments<'_, Self>,
        norm: RmsNormWeight<'_, Self>,
        shape: (usize, usize),
        (scratch, residual): (&mut Self::Buffer, &mut Self::Buffer),
        out: &mut Normed<Self>,
    ) -> Result<(), BackendError> {
        product_then_norm(self, (product, norm), shape, (scratch, residual), out)
    }

    /// `out = x . weight^T` on rank 0, of which every rank has some rows of the weight: x `(rows, k)`, weight
    /// `(own columns, k)`, out `(rows, total)`. Other ranks' `out` is left alone.
    fn gathered_linear(
        &self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        rows: usize,
        columns: GatheredColumns<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let _ = columns;
        self.linear(x, weight, None, rows, out)
    }
}

/// [`CollectiveOps::linear_add_norm`] by its parts.
pub(crate) fn product_then_norm<B: CollectiveOps + ?Sized>(
    backend: &B,
    (product, norm): (LinearArguments<'_, B>, RmsNormWeight<'_, B>),
    shape: (usize, usize),
    (scratch, residual): (&mut B::Buffer, &mut B::Buffer),
    out: &mut Normed<B>,
) -> Result<(), BackendError> {
    backend.linear(product.x, product.weight, product.bias, shape.0, scratch)?;
    backend.all_reduce_add_norm(scratch, residual, norm.weight, norm.eps, shape, out.whole())
}
