//! How products with 4-bit levels by rings are laid out over the multiprocessors: `cuda/int4_stream.cu`.

use crate::cuda::{
    clusters::Clusters,
    few::Kind,
    int4::{CHUNK, TILE},
};

/// Most rows of a product.
pub(super) const STREAM_ROWS: usize = 64;
/// As in int4_ring.cuh and int4_stream.cu: stages of a warp's ring, bytes of what counts bytes.
const DEPTH: usize = 4;
const COUNTED_BYTES: usize = 128;
/// What a block can have of shared memory, and takes at least: so that two products' blocks lie beside one another, not three.
const SHARED_BYTES: usize = 227 << 10;
const LEAST_SHARED_BYTES: usize = 78 << 10;
/// The same of up to 16 rows of products that do not add to the residual: beside one that does.
const LEAST_SHARED_BYTES_OF_FEW: usize = 116 << 10;
/// Most groups of a warp.
const MOST_ROUNDS: usize = 16;
/// Chunks of tiles a multiprocessor from which on rings are faster than the kernel for few rows.
const LEAST_CHUNKS: usize = 32;
/// Rows for which plans are made; a product has that of the fewest that are not fewer. A row's bits depend on its plan.
const PLANNED_ROWS: [usize; 4] = [4, 16, 32, STREAM_ROWS];
const KINDS: [Kind; 3] = [Kind::Linear, Kind::Gated, Kind::Added];

/// A weight: rows, columns, columns of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) group: usize,
}

/// As in int4_ring.cuh, with the clusters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) clusters: usize,
    pub(super) slices: usize,
    pub(super) across: usize,
    pub(super) along: usize,
    pub(super) rounds: usize,
    pub(super) often: bool,
    pub(super) over: bool,
}

impl Plan {
    /// Groups whose sums are joined at once.
    fn kept(&self) -> usize {
        self.across * if self.often { 1 } else { self.rounds }
    }

    /// Bytes of shared memory that a block takes.
    pub(super) fn block_bytes(&self, shape: &Shape, rows: usize, kind: Kind) -> usize {
        let task = Task::new(shape, rows, kind);
        task.shared_bytes(self).max(task.least_shared_bytes())
    }
}

/// The plans of all products with a weight, made when it is loaded: by kind, and by [`PLANNED_ROWS`].
pub(super) struct Plans([[Option<Plan>; PLANNED_ROWS.len()]; KINDS.len()]);

impl Plans {
    /// With none on a GPU of `capability` that has no such kernels.
    pub(super) fn new(shape: &Shape, capability: (i32, i32), room: &Clusters) -> Self {
        let plan = |kind, rows| {
            let task = Task::new(shape, rows, kind);
            let streams = capability >= (9, 0) && task.streams(room.num_sms());
            streams.then(|| task.plan(room))?
        };
        Self(KINDS.map(|kind| PLANNED_ROWS.map(|rows| plan(kind, rows))))
    }

    /// The plan of a product of `rows` rows, if rings are a way to make it, and the faster one.
    pub(super) fn of(&self, kind: Kind, rows: usize) -> Option<&Plan> {
        let kind = KINDS.iter().position(|&planned| planned == kind)?;
        let size = PLANNED_ROWS.iter().position(|&most| rows <= most)?;
        self.0[kind][size].as_ref()
    }
}

/// What is to be laid out: a weight of `width` rows, or twice as many if gated, for up to `rows` rows of x.
#[derive(Clone, Copy)]
struct Task {
    rows: usize,
    width: usize,
    chunks: usize,
    group: usize,
    kind: Kind,
}

impl Task {
    fn new(shape: &Shape, rows: usize, kind: Kind) -> Self {
        Self {
            rows,
            width: kind.width(shape.rows),
            chunks: shape.cols.div_ceil(CHUNK),
            group: shape.group,
            kind,
        }
    }

    /// Whether there is a kernel for such a weight, and rings are the faster way.
    fn streams(&self, num_sms: usize) -> bool {
        match self.kind {
            Kind::Linear => {
                self.rows > 16 || self.width.div_ceil(TILE) * self.chunks >= LEAST_CHUNKS * num_sms
            }
            // Columns are stored two by two, and halves begin with an even row.
            Kind::Gated | Kind::Added => self.width > 0 && self.width.is_multiple_of(2),
        }
    }

    /// Most warps of a block.
    fn warps(&self) -> usize {
        if self.rows <= 16 { 16 } else { 12 }
    }

    fn x_bytes(&self, slices: usize) -> usize {
        let pitch = self.chunks.div_ceil(slices) * CHUNK * 2 + 64;
        (self.rows * pitch).next_multiple_of(128)
    }

    fn shared_bytes(&self, plan: &Plan) -> usize {
        let (warps, groups) = (plan.across * plan.along, CHUNK / self.group);
        let rings = warps * DEPTH * (TILE * CHUNK / 2 + groups * 2 * TILE * 2);
        let (rows, line) = (self.rows.div_ceil(plan.slices), plan.kept() * TILE * 4);
        let sums = plan.slices * plan.along * rows * line;
        let behind = match self.kind {
            Kind::Linear | Kind::Gated => rows * 4,
            Kind::Added => (rows + 1) * line,
        };
        let streamed = self.x_bytes(plan.slices) + rings;
        let rest = if plan.over {
            sums.max(streamed)
        } else {
            sums + streamed
        };
        COUNTED_BYTES + behind.next_multiple_of(128) + rest
    }

    fn least_shared_bytes(&self) -> usize {
        if self.rows <= 16 && self.kind != Kind::Added {
            LEAST_SHARED_BYTES_OF_FEW
        } else {
            LEAST_SHARED_BYTES
        }
    }

    /// How multiprocessors share the work, if they can.
    fn plan(&self, room: &Clusters) -> Option<Plan> {
        let all = room.all().filter(|(slices, _)| *slices <= self.chunks);
        let plans = all.flat_map(|(slices, clusters)| self.plans(slices, clusters));
        let fitting = plans.filter(|plan| self.shared_bytes(plan) <= SHARED_BYTES);
        fitting.min_by(|a, b| self.cycles(a).total_cmp(&self.cycles(b)))
    }

    /// With up to `clusters` clusters of `slices` blocks.
    fn plans(&self, slices: usize, clusters: usize) -> Vec<Plan> {
        let pairs = self.width.div_ceil(2);
        let clusters = clusters.min(pairs);
        let gated = self.kind == Kind::Gated;
        let own = if gated { TILE / 4 } else { TILE / 2 };
        let groups = pairs.div_ceil(clusters).div_ceil(own);
        let mut plans = Vec::new();
        for rounds in 1..=groups.min(MOST_ROUNDS) {
            let across = groups.div_ceil(rounds);
            if across * (rounds - 1) >= groups {
                continue;
            }
            for along in 1..=(self.chunks / slices).min(self.warps() / across) {
                let plan = |often, over| Plan {
                    clusters,
                    slices,
                    across,
                    along,
                    rounds,
                    often,
                    over,
                };
                plans.push(plan(false, false));
                if rounds == 1 || self.kind != Kind::Added {
                    plans.push(plan(rounds > 1, rounds == 1));
                }
            }
        }
        plans
    }

    /// About how long it takes, as measured on an H100 with the shapes of Qwen3-4B: a warp's work on a chunk of a group, more
    /// where few warps hide one another's waits; x; clusters; rounds, above all where blocks join sums in each.
    fn cycles(&self, plan: &Plan) -> f64 {
        let chunk = match self.rows {
            ..=16 => 95.0,
            32 => 125.0,
            _ => 172.0,
        };
        let warps = plan.across * plan.along;
        let chunks = self.chunks.div_ceil(plan.slices).div_ceil(plan.along);
        let work = (warps * plan.rounds * chunks) as f64 * chunk * (1.0 + 2.0 / warps as f64);
        let x = self.x_bytes(plan.slices) as f64 / 40.0;
        let cluster = if plan.slices > 1 { 300.0 } else { 0.0 };
        let round = if plan.often {
            125.0 * self.rows as f64
        } else {
            600.0
        };
        let over = if plan.over { 100.0 } else { 0.0 };
        work + x + cluster + over + round * (plan.rounds - 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an H100.
    const ROOM: Clusters = Clusters([132, 66, 32, 15]);

    fn task(rows: usize, width: usize, k: usize, kind: Kind) -> Task {
        Task {
            rows,
            width,
            chunks: k.div_ceil(CHUNK),
            group: 32,
            kind,
        }
    }

    #[test]
    fn every_plan_fits_a_multiprocessor_and_covers_the_weight() {
        for rows in PLANNED_ROWS {
            for (width, k) in [
                (6144, 2560),
                (2560, 4096),
                (2560, 9728),
                (40, 128),
                (151_936, 2560),
                (4096, 14_336),
            ] {
                for kind in [Kind::Linear, Kind::Gated, Kind::Added] {
                    let task = task(rows, width, k, kind);
                    let Some(plan) = task.plan(&ROOM) else {
                        // What adds to the residual keeps the sums of all its groups.
                        let added = kind == Kind::Added && width > 100_000;
                        assert!(rows > 16 || added, "no plan for {width} x {k}");
                        continue;
                    };
                    assert!(task.shared_bytes(&plan) <= SHARED_BYTES);
                    assert!(plan.across * plan.along <= task.warps());
                    assert!(plan.clusters * plan.slices <= ROOM.num_sms());
                    let own = plan.across * plan.rounds * if kind == Kind::Gated { TILE / 2 } else { TILE };
                    assert!(own * plan.clusters >= width, "{plan:?} of {width} x {k}");
                }
            }
        }
    }

    #[test]
    fn plans_are_kept_for_what_rings_make() {
        let shape = |rows, cols| Shape {
            rows,
            cols,
            group: 128,
        };
        let large = Plans::new(&shape(19_456, 2560), (9, 0), &ROOM);
        for kind in KINDS {
            let plan = |rows| large.of(kind, rows).copied();
            assert!(plan(1).is_some());
            assert_eq!(plan(1), plan(4), "a row's bits are those of its product alone");
            assert_eq!(plan(5), Task::new(&shape(19_456, 2560), 16, kind).plan(&ROOM));
            assert_eq!(plan(17), Task::new(&shape(19_456, 2560), 32, kind).plan(&ROOM));
            assert_eq!(plan(64), Task::new(&shape(19_456, 2560), 64, kind).plan(&ROOM));
            assert_eq!(plan(65), None);
        }
        let odd = Plans::new(&shape(333, 256), (9, 0), &ROOM);
        assert_eq!(odd.of(Kind::Linear, 16), None, "too small for rings");
        assert!(odd.of(Kind::Linear, 17).is_some());
        assert_eq!(odd.of(Kind::Added, 17), None);
        let row = Plans::new(&shape(1, 32), (9, 0), &ROOM);
        assert_eq!(row.of(Kind::Gated, 1), None, "no row has halves");
        let older = Plans::new(&shape(19_456, 2560), (8, 0), &ROOM);
        assert_eq!(older.of(Kind::Linear, 1), None);
    }
}
