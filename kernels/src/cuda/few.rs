//! Products of few rows on Hopper: how they are laid out, and how the device is told of their matrices.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaWeight, Element,
        clusters::Clusters,
        launch::Launch,
        linear::Product,
        tensor_map::{TILE_COLUMNS, tensor_map},
        weight::Matrix,
    },
};

/// Elements of a weight from which on linear_stream.cu is faster with three rows, and from which on not with four.
const LARGE: usize = 8 << 20;
pub(super) const LARGEST: usize = 20 << 20;
/// Most rows of x.
pub(super) const FEW_ROWS: usize = 64;
/// Weight rows of a side of a tile, for which there are kernels.
const SIDES: [usize; 3] = [16, 32, 48];
/// Bytes of a row in a stage.
const LINE_BYTES: usize = TILE_COLUMNS * 2;
/// Four warps that multiply, one that has boxes copied, one that brings what results need.
const THREADS: usize = 192;
/// Two barriers and rows' scales.
const SCALES_BYTES: usize = 16 + FEW_ROWS * 4;
/// Of a block, at most. Deep rings are worth more than room for a block of the next product.
const SHARED_BYTES: usize = 148 << 10;
const MAX_STAGES: usize = 24;
/// Up to so many rows some of a block's four warps have none, and sums are shared out through shared memory.
const SHARED_OUT_ROWS: usize = 32;

/// What becomes of a product's results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Linear,
    /// Silu of the weight's first half times the second.
    Gated,
    /// Added to the residual, whose norm is left to the next product.
    Added,
}

impl Kind {
    /// As kernels are called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Gated => "gated",
            Self::Added => "added",
        }
    }

    /// Columns of the output of a weight with so many rows.
    pub(super) fn width(self, weight_rows: usize) -> usize {
        match self {
            Self::Gated => weight_rows / 2,
            Self::Linear | Self::Added => weight_rows,
        }
    }
}

/// A product: `n` are columns of the output.
#[derive(Clone, Copy, Debug)]
struct Task {
    rows: usize,
    n: usize,
    k: usize,
    kind: Kind,
}

/// How it is laid out, as in linear_few.cu.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    side: usize,
    own: usize,
    pub(super) tiles: usize,
    slices: usize,
    stages: usize,
    joined: bool,
    blocks: usize,
    shared_bytes: usize,
}

impl Task {
    fn new(weight: &CudaWeight, rows: usize, kind: Kind) -> Self {
        Self {
            rows,
            n: kind.width(weight.rows),
            k: weight.cols,
            kind,
        }
    }

    /// Fewest rows: of less linear_stream.cu is faster.
    fn least_rows(&self) -> usize {
        let halves = if self.kind == Kind::Gated { 2 } else { 1 };
        match halves * self.n * self.k {
            ..LARGE => 3,
            LARGE..LARGEST if self.kind != Kind::Added => 5,
            _ => 4,
        }
    }

    /// The fastest, by an estimate.
    fn plan(&self, room: &Clusters) -> Option<Plan> {
        let plans = room
            .all()
            .filter_map(|(slices, clusters)| self.plan_of(slices, clusters));
        plans.min_by_key(|plan| self.nanoseconds(plan))
    }

    /// With up to `clusters` clusters of `slices` blocks.
    fn plan_of(&self, slices: usize, clusters: usize) -> Option<Plan> {
        let turns = self.k.div_ceil(TILE_COLUMNS);
        if slices > turns {
            return None;
        }
        let units = match self.kind {
            Kind::Gated => self.n,
            Kind::Linear | Kind::Added => self.n.div_ceil(2),
        };
        let most = SIDES[SIDES.len() - 1];
        let even = units.div_ceil(clusters);
        let own = even.div_ceil(even.div_ceil(most)).next_multiple_of(2);
        let side = *SIDES.iter().find(|side| **side >= own)?;
        let tiles = units.div_ceil(own);
        let added = self.kind == Kind::Added;
        let each = self.rows.div_ceil(slices);
        let joined = slices > 1 || added || (tiles <= clusters && self.rows <= SHARED_OUT_ROWS);
        let stage_bytes = self.stage_bytes(own);
        // Rows of sums from every block of a cluster; the norm's weight and rows of the residual.
        let lines = slices * each + if added { 1 + each } else { 0 };
        // What products read past the last stage.
        let past = (64 + side - own.next_multiple_of(8)) * LINE_BYTES;
        let room = if joined {
            past.max(lines * (2 * side + 8) * 4)
        } else {
            past
        };
        let per_block = turns.div_ceil(slices) * tiles.div_ceil(clusters);
        let stages = ((SHARED_BYTES - SCALES_BYTES - room) / (stage_bytes + 16))
            .min(per_block)
            .min(MAX_STAGES);
        let fits = tiles <= clusters || (slices == 1 && !added);
        (stages >= 2.min(per_block) && fits).then_some(Plan {
            side,
            own,
            tiles,
            slices,
            stages,
            joined,
            blocks: tiles.min(clusters) * slices,
            shared_bytes: room + stages * (stage_bytes + 16) + SCALES_BYTES,
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
            600 + self.rows * plan.own / 2
        } else {
            0
        };
        turns * (bytes / 2950).max(250) + joining
    }
}

impl CudaBackend {
    /// How `rows` rows of a product with `weight` are made by linear_few.cu, if they are: without batch invariance, on Hopper.
    pub(super) fn few_plan(&self, weight: &CudaWeight, rows: usize, kind: Kind) -> Option<Plan> {
        let facts = &self.device.facts;
        let dense = matches!(weight.matrix, Matrix::Dense(_)) && weight.element != Element::F32;
        let task = Task::new(weight, rows, kind);
        let suits = dense
            && weight.cols.is_multiple_of(8)
            && facts.capability == (9, 0)
            && (task.least_rows()..=FEW_ROWS).contains(&rows)
            && !self.batch_invariant;
        // Results are stored two by two.
        (suits && task.n.is_multiple_of(2)).then(|| task.plan(&self.device.clusters))?
    }

    /// `product` of a few rows, with all that its kind has behind it: `None` where there is no such kernel.
    pub(super) fn linear_few(
        &self,
        product: &Product<'_>,
        rows: usize,
        kind: Kind,
    ) -> Option<Result<(), BackendError>> {
        let plan = self.few_plan(product.weight, rows, kind)?;
        Some(self.launch_few((product, kind), rows, &plan, |launch| launch.owed(product.owed)))
    }

    /// With the kernel's last arguments from `more`.
    pub(super) fn launch_few(
        &self,
        (product, kind): (&Product<'_>, Kind),
        rows: usize,
        plan: &Plan,
        more: impl FnOnce(Launch<'_>) -> Launch<'_>,
    ) -> Result<(), BackendError> {
        let weight = product.weight;
        let Task { n, k, .. } = Task::new(weight, rows, kind);
        let x_rows = rows.next_multiple_of(8);
        let maps = [
            tensor_map(product.matrix, weight.element, (weight.rows, k), plan.own)?,
            tensor_map(product.x, weight.element, (rows, k), x_rows)?,
        ];
        let kind = kind.name();
        let launch = self
            .device
            .kernel(&format!("{kind}_few_{}_{}", plan.side, product.types()))?
            .maps(&maps)
            .grid(plan.blocks, 1, 1)
            .cluster(plan.slices)
            .threads(THREADS)
            .shared(plan.shared_bytes)
            .wide(product.bias.map_or(0, CudaBuffer::address))
            .int(rows)
            .int(n)
            .int(k)
            .wide(product.out.address())
            .int(plan.own)
            .int(plan.tiles)
            .int(plan.slices)
            .int(plan.stages)
            .int(usize::from(plan.joined));
        more(launch).run()
    }
}
