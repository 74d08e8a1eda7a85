//! Head norms, rotation and the copy into the cache for many rows.

use crate::{
    backend::BackendError,
    cuda::{CudaBackend, CudaBuffer, CudaIndices},
    ops::{HeadLayout, QkNormWeights, RotaryStep},
};

/// Rows from which on whole rows in wide accesses are faster than a warp a head.
pub(super) const MANY_ROWS: usize = 64;
/// Rows whose values one block turns around.
const VALUE_ROWS: usize = 64;
/// Heads that a warp has at once.
const WARP_HEADS: usize = 4;

impl CudaBackend {
    /// Of 16-bit elements, heads of 64 or 128 and cache blocks of 16; everything was checked.
    pub(super) fn rope_rows(
        &self,
        (qkv, heads): (&CudaBuffer, HeadLayout),
        norm: Option<&QkNormWeights<'_, CudaBuffer>>,
        rotary: &RotaryStep<'_, CudaBuffer, CudaIndices>,
        (keys, values): (u64, u64),
        slots: &CudaIndices,
    ) -> Result<(), BackendError> {
        let tiles = rotary.rows.div_ceil(VALUE_ROWS) * heads.num_kv_heads;
        // A warp has two turns.
        let warps = (heads.num_heads + heads.num_kv_heads).div_ceil(2 * WARP_HEADS);
        let name = format!("rope_rows_{}_{}", heads.head_dim, qkv.element().name());
        self.device
            .kernel(&name)?
            .grid(tiles + rotary.rows, 1, 1)
            .threads(32 * warps.clamp(2, 8))
            .wide(qkv.address())
            .wide(keys)
            .wide(values)
            .wide(norm.map_or(0, |norm| norm.q.address()))
            .wide(norm.map_or(0, |norm| norm.k.address()))
            .float(norm.map_or(0.0, |norm| norm.eps))
            .wide(rotary.table.address())
            .wide(rotary.positions.address())
            .wide(slots.address())
            .int(rotary.rows)
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .run()
    }
}
