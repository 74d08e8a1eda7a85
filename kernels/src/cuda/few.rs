//! Products of few rows on Hopper: how they are laid out, and how the device is told of their matrices.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer,
        linear::{Product, STREAM_ROWS},
        tensor_map::{TILE_COLUMNS, tensor_map},
    },
};

/// Most rows of x.
pub(super) const FEW_ROWS: usize = 64;
/// Weight rows of a side of a tile, for which there are kernels.
const SIDES: [usize; 3] = [16, 32, 48];
/// Bytes of a row in a stage.
const LINE_BYTES: usize = TILE_COLUMNS * 2;
const THREADS: usize = 160;
/// Of a block, at most. Deep rings are worth more than room for a block of the next product.
const SHARED_BYTES: usize = 148 << 10;
const MAX_STAGES: usize = 24;
/// Up to so many rows some of a block's four warps have none, and sums are shared out through shared memory.
const SHARED_OUT_ROWS: usize = 32;

/// A product: `n` are columns of the output.
#[derive(Clone, Copy, Debug)]
struct Task {
    rows: usize,
    n: usize,
    k: usize,
    gated: bool,
}

/// How it is laid out, as in linear_few.cu.
#[derive(Clone, Copy, Debug)]
struct Plan {
    side: usize,
    own: usize,
    tiles: usize,
    slices: usize,
    stages: usize,
    joined: bool,
    blocks: usize,
    shared_bytes: usize,
}

impl Task {
    /// The fastest, by an estimate.
    fn plan(&self, num_sms: usize) -> Option<Plan> {
        let plans = [1, 2, 4, 8]
            .into_iter()
            .filter_map(|slices| self.plan_of(slices, num_sms));
        plans.min_by_key(|plan| self.nanoseconds(plan))
    }

    /// With clusters of `slices` blocks, as many as have room beside one another.
    fn plan_of(&self, slices: usize, num_sms: usize) -> Option<Plan> {
        let turns = self.k.div_ceil(TILE_COLUMNS);
        if slices > turns {
            return None;
        }
        // Multiprocessors lie in groups that clusters of more than two do not fill.
        let usable = if slices > 2 { num_sms * 10 / 11 } else { num_sms };
        let clusters = (usable / slices).max(1);
        let units = if self.gated { self.n } else { self.n.div_ceil(2) };
        let most = SIDES[SIDES.len() - 1];
        let each = units.div_ceil(clusters);
        let own = each.div_ceil(each.div_ceil(most)).next_multiple_of(2);
        let side = *SIDES.iter().find(|side| **side >= own)?;
        let tiles = units.div_ceil(own);
        let joined = slices > 1 || (tiles <= clusters && self.rows <= SHARED_OUT_ROWS);
        let stage_bytes = self.stage_bytes(own);
        let sums = self.rows.div_ceil(slices) * slices * (2 * side + 8) * 4;
        // What products read past the last stage.
        let past = (64 + side - own.next_multiple_of(8)) * LINE_BYTES;
        let room = if joined { sums.max(past) } else { past };
        let per_block = turns.div_ceil(slices) * tiles.div_ceil(clusters);
        let stages = ((SHARED_BYTES - room) / (stage_bytes + 16))
            .min(per_block)
            .min(MAX_STAGES);
        (stages >= 2.min(per_block) && (slices == 1 || tiles <= clusters)).then_some(Plan {
            side,
            own,
            tiles,
            slices,
            stages,
            joined,
            blocks: tiles.min(clusters) * slices,
            shared_bytes: room + stages * (stage_bytes + 16),
        })
    }

    fn stage_bytes(&self, own: usize) -> usize {
        (2 * own.next_multiple_of(8) + self.rows.next_multiple_of(8)) * LINE_BYTES
    }

    /// An estimate for an H100: a turn takes as long as all blocks' weights from memory, and something at least; a cluster
    /// joins its sums.
    fn nanoseconds(&self, plan: &Plan) -> usize {
        let in_turn = plan.tiles.div_ceil(plan.blocks / plan.slices);
        let turns = self.k.div_ceil(TILE_COLUMNS).div_ceil(plan.slices) * in_turn;
        let bytes = 2 * plan.own * LINE_BYTES * plan.blocks;
        let joining = if plan.slices > 1 {
            1000 + self.rows * plan.own / 2
        } else {
            0
        };
        turns * (bytes / 2950).max(250) + joining
    }
}

impl CudaBackend {
    /// More than [`STREAM_ROWS`] and up to [`FEW_ROWS`] rows of `product`; with `gated`, `out` is silu of the weight's first
    /// half times the second. None where there is no such kernel.
    pub(super) fn linear_few(
        &self,
        product: &Product<'_>,
        rows: usize,
        gated: bool,
    ) -> Option<Result<(), BackendError>> {
        let facts = &self.device.facts;
        let n = product.weight.rows / if gated { 2 } else { 1 };
        let task = Task {
            rows,
            n,
            k: product.weight.cols,
            gated,
        };
        let suits = facts.capability == (9, 0)
            && (STREAM_ROWS + 1..=FEW_ROWS).contains(&rows)
            && !self.batch_invariant;
        let plan = suits.then(|| task.plan(facts.num_sms))??;
        Some(self.launch_few(product, &task, &plan))
    }

    fn launch_few(&self, product: &Product<'_>, task: &Task, plan: &Plan) -> Result<(), BackendError> {
        let element = product.weight.element;
        let weight_rows = product.weight.rows;
        let maps = [
            tensor_map(product.matrix, element, (weight_rows, task.k), plan.own)?,
            tensor_map(
                product.x,
                element,
                (task.rows, task.k),
                task.rows.next_multiple_of(8),
            )?,
        ];
        let kind = if task.gated { "gated" } else { "linear" };
        self.device
            .kernel(&format!("{kind}_few_{}_{}", plan.side, product.types()))?
            .maps(&maps)
            .grid(plan.blocks, 1, 1)
            .cluster(plan.slices)
            .threads(THREADS)
            .shared(plan.shared_bytes)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(task.rows)
            .int(task.n)
            .int(task.k)
            .wide(product.out.address())
            .int(plan.own)
            .int(plan.tiles)
            .int(plan.slices)
            .int(plan.stages)
            .int(usize::from(plan.joined))
            .run()
    }
}
