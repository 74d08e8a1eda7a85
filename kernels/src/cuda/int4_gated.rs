//! Gate and up with 4-bit levels, and silu, at once: `cuda/int4_gated.cu`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer,
        int4::{FEW_ROWS, Int4Matrix, Part, TILE, UNIT},
        linear::Product,
    },
};

/// As in int4_gated.cu: warps of a block, stages of a warp's ring, tiles and columns of an item.
const WARPS: usize = 16;
const DEPTH: usize = 2;
const TILES: usize = 2;
const COLUMNS: usize = 2 * UNIT;
/// What a block takes at least: see the same of products with 16-bit weights.
const SHARED_BYTES: usize = 78 << 10;

impl CudaBackend {
    /// Silu of the first half of the product times the second, if there is a kernel for that weight and as many rows.
    pub(super) fn gated_int4(
        &self,
        product: &Product<'_>,
        matrix: &Int4Matrix,
        rows: usize,
    ) -> Option<Result<(), BackendError>> {
        let [part] = &matrix.parts[..] else {
            return None;
        };
        if rows > FEW_ROWS || !part.rows.is_multiple_of(TILES * TILE) {
            return None;
        }
        let x = match part.order {
            None => Ok(product.x),
            Some(_) => self.in_order(product, part, product.x, rows),
        };
        Some(x.and_then(|x| self.gated(product, part, x, rows)))
    }

    fn gated(&self, product: &Product<'_>, part: &Part, x: u64, rows: usize) -> Result<(), BackendError> {
        let n = part.rows / 2;
        let pairs = n / TILE;
        // A block a multiprocessor, unless it would have more pairs than warps.
        let num_sms = self.device.facts.num_sms;
        let blocks = pairs.min(num_sms * pairs.div_ceil(num_sms * WARPS));
        let groups = COLUMNS / part.group;
        let stage = TILES * TILE * (COLUMNS / 2 + groups * 3);
        let sums = 2 * rows * TILES * TILE * 4;
        self.device
            .kernel(&format!(
                "int4_gated_{}_g{}_{}",
                rows.div_ceil(8),
                part.group,
                product.weight.element.name()
            ))?
            .grid(blocks, 1, 1)
            .threads(32 * WARPS)
            .shared((WARPS * (DEPTH * stage + sums)).max(SHARED_BYTES))
            .wide(x)
            .wide(part.levels.address())
            .wide(part.scales.address())
            .wide(part.zeros())
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(part.cols)
            .wide(product.out.address())
            .run()
    }
}
