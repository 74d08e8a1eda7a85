//! Products of up to 64 rows with 4-bit levels by rings, and gate, up and silu at once: `cuda/int4_stream.cu`.

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, Element,
        int4::{CHUNK, Int4Matrix, Part, TILE},
        linear::Product,
    },
};

/// Most rows of a product.
pub(super) const STREAM_ROWS: usize = 64;
/// As in int4_stream.cu: stages of a warp's ring.
const DEPTH: usize = 4;
/// What a block can have of shared memory, and takes at least: see the same of products with 16-bit weights.
const SHARED_BYTES: usize = 227 << 10;
const LEAST_SHARED_BYTES: usize = 78 << 10;
/// Most groups of a warp.
const MOST_ROUNDS: usize = 16;
/// Chunks of tiles a multiprocessor from which on rings are faster than the kernel for few rows.
const LEAST_CHUNKS: usize = 64;

/// What is to be laid out: a weight of `width` rows, or twice as many if gated, for up to `rows` rows of x.
#[derive(Clone, Copy)]
struct Task {
    rows: usize,
    width: usize,
    chunks: usize,
    group: usize,
    gated: bool,
}

/// As in int4_stream.cu, with the clusters and bytes of shared memory for as many rows as were planned for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    clusters: usize,
    slices: usize,
    across: usize,
    along: usize,
    rounds: usize,
    often: bool,
    over: bool,
}

impl Task {
    /// Depends on how many rows there are only by the kernel's size, and up to 16 not at all, so that a row's bits do not.
    fn new(part: &Part, rows: usize, gated: bool) -> Self {
        Self {
            rows: if rows <= 16 { 16 } else { kernel_rows(rows) },
            width: if gated { part.rows / 2 } else { part.rows },
            chunks: part.chunks(),
            group: part.group,
            gated,
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
        let kept = plan.across * if plan.often { 1 } else { plan.rounds };
        let sums = plan.along * kept * self.rows * TILE * 4;
        let x = self.x_bytes(plan.slices);
        if plan.over {
            sums.max(x + rings)
        } else {
            x + rings + sums
        }
    }

    /// How `num_sms` multiprocessors share the work, if they can.
    fn plan(&self, num_sms: usize) -> Option<Plan> {
        let most = if self.rows <= 16 { 4 } else { 8 };
        let slices = [1, 2, 4, 8]
            .into_iter()
            .filter(|&slices| slices <= most.min(self.chunks));
        let plans = slices.flat_map(|slices| self.plans(num_sms, slices));
        let fitting = plans.filter(|plan| self.shared_bytes(plan) <= SHARED_BYTES);
        fitting.min_by(|a, b| self.cycles(a).total_cmp(&self.cycles(b)))
    }

    fn plans(&self, num_sms: usize, slices: usize) -> Vec<Plan> {
        // Clusters of four and more leave some multiprocessors out.
        let usable = if slices > 2 { num_sms * 10 / 11 } else { num_sms };
        let pairs = self.width.div_ceil(2);
        let clusters = (usable / slices).clamp(1, pairs);
        let own = if self.gated { TILE / 4 } else { TILE / 2 };
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
                plans.push(plan(rounds > 1, rounds == 1));
            }
        }
        plans
    }

    /// About how long it takes, as measured on an H100 with the shapes of Qwen3-4B: a warp's work on a chunk of a group, more
    /// where few warps hide one another's waits; x; clusters; rounds, above all where blocks join sums in each.
    fn cycles(&self, plan: &Plan) -> f64 {
        let chunk = match self.rows {
            16 => 95.0,
            32 => 125.0,
            _ => 172.0,
        };
        let warps = plan.across * plan.along;
        let chunks = self.chunks.div_ceil(plan.slices).div_ceil(plan.along);
        let work = (warps * plan.rounds * chunks) as f64 * chunk * (1.0 + 2.0 / warps as f64);
        let x = self.x_bytes(plan.slices) as f64 / 60.0;
        let cluster = if plan.slices > 1 { 1700.0 } else { 0.0 };
        let round = if plan.often {
            125.0 * self.rows as f64
        } else {
            600.0
        };
        let over = if plan.over { 100.0 } else { 0.0 };
        work + x + cluster + over + round * (plan.rounds - 1) as f64
    }
}

/// Rows that the kernel for `rows` rows makes.
fn kernel_rows(rows: usize) -> usize {
    rows.next_power_of_two().max(8)
}

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
        // Halves begin with an even row.
        if rows > STREAM_ROWS || !part.rows.is_multiple_of(4) {
            return None;
        }
        let plan = self.stream_plan(&Task::new(part, rows, true))?;
        let x = match part.order {
            None => Ok(product.x),
            Some(_) => self.in_order(product, part, product.x, rows),
        };
        Some(x.and_then(|x| {
            let bias = product.bias.map_or(0, CudaBuffer::address);
            let to = (bias, part.rows / 2, product.out.address());
            self.run_stream(product, part, (x, rows), plan, (to, true))
        }))
    }

    /// The product with one part for up to 64 rows, if it is the faster way; `to` is the bias, the columns of a row of results
    /// and where the first is.
    pub(super) fn stream_int4(
        &self,
        product: &Product<'_>,
        part: &Part,
        (x, rows): (u64, usize),
        to: (u64, usize, u64),
    ) -> Option<Result<(), BackendError>> {
        let chunks = part.rows.div_ceil(TILE) * part.chunks();
        if rows > STREAM_ROWS || rows <= 16 && chunks < LEAST_CHUNKS * self.device.facts.num_sms {
            return None;
        }
        let plan = self.stream_plan(&Task::new(part, rows, false))?;
        Some(self.run_stream(product, part, (x, rows), plan, (to, false)))
    }

    fn stream_plan(&self, task: &Task) -> Option<Plan> {
        let facts = &self.device.facts;
        (facts.capability >= (9, 0)).then(|| task.plan(facts.num_sms))?
    }

    fn run_stream(
        &self,
        product: &Product<'_>,
        part: &Part,
        (x, rows): (u64, usize),
        plan: Plan,
        ((bias, stride, out), gated): ((u64, usize, u64), bool),
    ) -> Result<(), BackendError> {
        let task = Task {
            rows,
            ..Task::new(part, rows, gated)
        };
        let kernel = format!(
            "int4_stream_{}_g{}_{}",
            kernel_rows(rows) / 8,
            part.group,
            product.weight.element.name()
        );
        self.device
            .kernel(&kernel)?
            .grid(plan.clusters * plan.slices, 1, 1)
            .threads(32 * plan.across * plan.along)
            .shared(task.shared_bytes(&plan).max(LEAST_SHARED_BYTES))
            .cluster(plan.slices)
            .wide(x)
            .wide(part.levels.address())
            .wide(part.scales.address())
            .wide(part.zeros())
            .wide(bias)
            .int(rows)
            .int(task.width)
            .int(part.cols)
            .int(stride)
            .int(usize::from(product.out.element() == Element::F32))
            .wide(out)
            .int(plan.slices)
            .int(plan.across)
            .int(plan.along)
            .int(plan.rounds)
            .int(usize::from(plan.often))
            .int(usize::from(gated))
            .int(usize::from(plan.over))
            .run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUM_SMS: usize = 132;

    fn task(rows: usize, width: usize, k: usize, gated: bool) -> Task {
        Task {
            rows,
            width,
            chunks: k.div_ceil(CHUNK),
            group: 32,
            gated,
        }
    }

    #[test]
    fn every_plan_fits_a_multiprocessor_and_covers_the_weight() {
        for rows in [16, 32, 64] {
            for (width, k) in [
                (6144, 2560),
                (2560, 4096),
                (2560, 9728),
                (40, 128),
                (151_936, 2560),
                (4096, 14_336),
            ] {
                for gated in [false, true] {
                    let task = task(rows, width, k, gated);
                    let Some(plan) = task.plan(NUM_SMS) else {
                        assert!(rows > 16, "no plan for {width} x {k}");
                        continue;
                    };
                    assert!(task.shared_bytes(&plan) <= SHARED_BYTES);
                    assert!(plan.across * plan.along <= task.warps());
                    assert!(plan.clusters * plan.slices <= NUM_SMS);
                    let own = plan.across * plan.rounds * if gated { TILE / 2 } else { TILE };
                    assert!(own * plan.clusters >= width, "{plan:?} of {width} x {k}");
                }
            }
        }
    }
}
