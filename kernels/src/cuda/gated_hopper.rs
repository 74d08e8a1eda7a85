//! `silu(gate) * up` of many rows on Hopper: `cuda/gated_hopper.cu`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer,
        linear::Product,
        tensor_map::{TILE_COLUMNS, tensor_map},
    },
};

/// Fewest rows for which this is faster than cuBLASLt and a kernel for silu; and rows above which it is only where at least
/// so many per cent of what multiprocessors have time for are of use, as power bounds what takes longer.
const LEAST_ROWS: usize = 256;
const FEW_ROWS: usize = 512;
const USEFUL_PER_CENT: usize = 90;
const TILE_ROWS: usize = 128;
const THREADS: usize = 384;
/// Tiles below one another that are made before those of the next columns.
const TILES_DOWN: usize = 16;
/// Shared memory through which results leave.
const RESULT_BYTES: usize = 8 * 2048;

/// How a kernel cuts the product into tiles, of which a block makes one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Of gate and up together.
    columns: usize,
    /// Of its ring in shared memory.
    stages: usize,
    /// Blocks that have tiles below one another and share their weights.
    cluster: usize,
}

const TILES: [Tile; 7] = [
    tile(256, 4, 2),
    tile(240, 4, 2),
    tile(208, 5, 2),
    tile(256, 4, 1),
    tile(224, 4, 1),
    tile(208, 5, 1),
    tile(160, 5, 1),
];

const fn tile(columns: usize, stages: usize, cluster: usize) -> Tile {
    Tile {
        columns,
        stages,
        cluster,
    }
}

impl Tile {
    /// Clusters that a result of `rows` rows and `columns` columns, of gate and up together, has work for.
    fn clusters(self, (rows, columns): (usize, usize)) -> usize {
        rows.div_ceil(TILE_ROWS * self.cluster) * columns.div_ceil(self.columns)
    }

    fn shared_bytes(self) -> usize {
        self.stages * ((TILE_ROWS + self.columns) * TILE_COLUMNS * 2 + 16) + RESULT_BYTES
    }

    /// What a result keeps multiprocessors busy with, in hundredths of an element: as many turns as the busiest has.
    fn cost(self, shape: (usize, usize), num_sms: usize) -> usize {
        let turns = self.clusters(shape).div_ceil(num_sms / self.cluster);
        // Weights that each block brings for itself take more power.
        let weight = if self.cluster == 1 { 106 } else { 100 };
        turns * num_sms * TILE_ROWS * self.columns * weight
    }

    /// Whether [`USEFUL_PER_CENT`] of that are elements of the result.
    fn is_useful(self, shape: (usize, usize), num_sms: usize) -> bool {
        100 * 100 * shape.0 * shape.1 >= USEFUL_PER_CENT * self.cost(shape, num_sms)
    }

    fn best(shape: (usize, usize), num_sms: usize) -> Self {
        let cheapest = TILES.into_iter().min_by_key(|tile| tile.cost(shape, num_sms));
        cheapest.unwrap_or(TILES[0])
    }
}

impl CudaBackend {
    /// Whether [`Self::gated_hopper`] makes `product`, of a 16-bit matrix.
    pub(super) fn prefers_hopper(&self, product: &Product<'_>, rows: usize) -> bool {
        let (n, k) = (product.weight.rows, product.weight.cols);
        // No other GPU has these instructions.
        let is_hopper = self.device.facts.capability == (9, 0);
        let fits = n.is_multiple_of(16) && k.is_multiple_of(8) && k > 0 && rows >= LEAST_ROWS;
        let num_sms = self.device.facts.num_sms;
        let pays = || rows <= FEW_ROWS || Tile::best((rows, n), num_sms).is_useful((rows, n), num_sms);
        is_hopper && !self.batch_invariant && fits && pays()
    }

    /// `silu(gate) * up` with the product's matrix, or with one that the kernel before has `written`.
    pub(super) fn gated_hopper(
        &self,
        product: &Product<'_>,
        written: Option<u64>,
        rows: usize,
    ) -> Result<(), BackendError> {
        let (n, k, element) = (product.weight.rows, product.weight.cols, product.weight.element);
        let num_sms = self.device.facts.num_sms;
        let tile = Tile::best((rows, n), num_sms);
        let clusters = tile.clusters((rows, n)).min(num_sms / tile.cluster);
        let weights = written.unwrap_or(product.matrix);
        let maps = [
            tensor_map(product.x, element, (rows, k), TILE_ROWS)?,
            tensor_map(weights, element, (n, k), tile.columns / 2)?,
        ];
        self.device
            .kernel(&format!(
                "gated_hopper_{}_{}_{}",
                tile.columns,
                tile.cluster,
                element.name()
            ))?
            .maps(&maps)
            .grid(clusters * tile.cluster, 1, 1)
            .cluster(tile.cluster)
            .threads(THREADS)
            .shared(tile.shared_bytes())
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n / 2)
            .int(k)
            .int(TILES_DOWN / tile.cluster)
            .int(usize::from(written.is_some()))
            .wide(product.out.address())
            .run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_into_shared_memory() {
        for tile in TILES {
            assert!(tile.shared_bytes() <= 227 << 10, "{tile:?}");
        }
    }

    #[test]
    fn tiles_are_those_that_leave_the_fewest_multiprocessors_idle() {
        let best = |rows| Tile::best((rows, 19456), 132);
        assert_eq!(best(256), tile(160, 5, 1));
        assert_eq!(best(512), tile(208, 5, 2));
        assert_eq!(best(1100), tile(224, 4, 1));
        assert_eq!(best(2048), tile(240, 4, 2));
        assert_eq!(best(8192), tile(256, 4, 2));
    }

    #[test]
    fn a_product_of_many_rows_is_to_fill_its_tiles() {
        let is_useful = |rows| Tile::best((rows, 19456), 132).is_useful((rows, 19456), 132);
        assert_eq!([1024, 1100, 2048, 8192].map(is_useful), [true, false, true, true]);
    }
}
