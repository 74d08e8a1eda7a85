//! Rotary positions.

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, check_len,
        lanes::{Kernel, Lanes},
        shape_error,
    },
    ops::HeadLayout,
};

/// See [`crate::ops::AttentionOps::rope`].
pub(super) fn rope(
    backend: &CpuBackend,
    qkv: &mut [f32],
    heads: HeadLayout,
    positions: &[u32],
    table: &[f32],
) -> Result<(), BackendError> {
    let (head_dim, width) = (heads.head_dim, heads.qkv_width());
    if !head_dim.is_multiple_of(2) {
        return Err(shape_error(format!(
            "rope: head_dim must be even, not {head_dim}"
        )));
    }
    let rows = positions.len();
    check_len("rope: qkv", qkv.len(), rows * width)?;
    if let Some(&last) = positions.iter().max()
        && (last as usize + 1) * head_dim > table.len()
    {
        return Err(shape_error(format!(
            "rope: position {last} is past the table of {} positions",
            table.len() / head_dim.max(1)
        )));
    }
    let task_rows = backend.task_rows(rows, width);
    backend.run_rows(&mut qkv[..rows * width], width, task_rows, |row, qkv| {
        let cos_sin = &table[positions[row] as usize * head_dim..][..head_dim];
        let rotated = &mut qkv[..heads.q_width() + heads.kv_width()];
        backend.vectorize(Rotate { rotated, cos_sin });
    });
    Ok(())
}

struct Rotate<'a> {
    /// `(heads, head_dim)`.
    rotated: &'a mut [f32],
    /// `(head_dim / 2)` cosines, then as many sines.
    cos_sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let head_dim = self.cos_sin.len();
        let (cos, sin) = self.cos_sin.split_at(head_dim / 2);
        for head in self.rotated.chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(head_dim / 2);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}
