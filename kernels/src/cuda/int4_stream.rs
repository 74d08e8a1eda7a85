//! Products of up to 64 rows with 4-bit levels by rings, what is behind them included: `cuda/int4_stream.cu`.

use crate::{
    backend::BackendError,
    cpu::shape_error,
    cuda::{
        CudaBackend, CudaBuffer, CudaWeight, Element,
        few::Kind,
        int4::{CHUNK, Int4Matrix, Part, TILE},
        launch::Launch,
        linear::Product,
        weight::Matrix,
    },
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

/// What is to be laid out: a weight of `width` rows, or twice as many if gated, for up to `rows` rows of x.
#[derive(Clone, Copy)]
struct Task {
    rows: usize,
    width: usize,
    chunks: usize,
    group: usize,
    kind: Kind,
}

/// As in int4_ring.cuh, with the clusters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) clusters: usize,
    slices: usize,
    across: usize,
    along: usize,
    rounds: usize,
    often: bool,
    over: bool,
}

impl Plan {
    /// Groups whose sums are joined at once.
    fn kept(&self) -> usize {
        self.across * if self.often { 1 } else { self.rounds }
    }
}

impl Task {
    /// Depends on how many rows there are only by the kernel's size, and up to 16 not at all, so that a row's bits do not.
    fn new(part: &Part, rows: usize, kind: Kind) -> Self {
        Self {
            rows: if rows <= 16 { 16 } else { kernel_rows(rows) },
            width: match kind {
                Kind::Gated => part.rows / 2,
                Kind::Linear | Kind::Added => part.rows,
            },
            chunks: part.chunks(),
            group: part.group,
            kind,
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

    /// How `num_sms` multiprocessors share the work, if they can.
    fn plan(&self, num_sms: usize) -> Option<Plan> {
        let slices = [1, 2, 4, 8].into_iter().filter(|&slices| slices <= self.chunks);
        let plans = slices.flat_map(|slices| self.plans(num_sms, slices));
        let fitting = plans.filter(|plan| self.shared_bytes(plan) <= SHARED_BYTES);
        fitting.min_by(|a, b| self.cycles(a).total_cmp(&self.cycles(b)))
    }

    fn plans(&self, num_sms: usize, slices: usize) -> Vec<Plan> {
        // Clusters of four and more leave some multiprocessors out.
        let usable = if slices > 2 { num_sms * 10 / 11 } else { num_sms };
        let pairs = self.width.div_ceil(2);
        let clusters = (usable / slices).clamp(1, pairs);
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
            16 => 95.0,
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

/// Rows that the kernel for `rows` rows makes.
fn kernel_rows(rows: usize) -> usize {
    rows.next_power_of_two().max(8)
}

impl CudaBackend {
    /// The only part of a matrix with which products of `rows` rows are made here, without batch invariance.
    fn streamed<'a>(&self, weight: &'a CudaWeight, rows: usize) -> Option<&'a Part> {
        let Matrix::Int4(matrix) = &weight.matrix else {
            return None;
        };
        let [part] = &matrix.parts[..] else {
            return None;
        };
        let streams = !self.batch_invariant && part.order.is_none();
        (streams && self.linear_plan(part, rows).is_some()).then_some(part)
    }

    /// Whether products with `weight` multiply their results by what their rows are owed.
    pub(super) fn int4_pays(&self, weight: &CudaWeight, rows: usize) -> bool {
        self.streamed(weight, rows).is_some()
    }

    /// How the product with `weight` is added to the residual, if there is a kernel for that.
    pub(super) fn int4_adder(&self, weight: &CudaWeight, rows: usize) -> Option<Plan> {
        let part = self.streamed(weight, rows)?;
        // Columns are stored two by two.
        let even = part.rows.is_multiple_of(2) && weight.element == Element::Bf16;
        even.then(|| self.stream_plan(&Task::new(part, rows, Kind::Added)))?
    }

    /// As [`Self::int4_adder`] says; `sums` gives the kernel's last arguments.
    pub(super) fn add_int4(
        &self,
        product: &Product<'_>,
        rows: usize,
        plan: &Plan,
        sums: impl FnOnce(Launch<'_>) -> Launch<'_>,
    ) -> Result<(), BackendError> {
        let part = self.streamed(product.weight, rows);
        let part = part.ok_or_else(|| shape_error("linear_add_norm: no kernel for this weight".into()))?;
        let bias = product.bias.map_or(0, CudaBuffer::address);
        let to = (bias, product.out.address());
        let launch = self.stream_launch_int4((product, Kind::Added), part, (product.x, rows), plan, to)?;
        sums(launch).run()
    }

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
        let plan = self.stream_plan(&Task::new(part, rows, Kind::Gated))?;
        let x = match part.order {
            None => Ok(product.x),
            Some(_) => self.in_order(product, part, product.x, rows),
        };
        Some(x.and_then(|x| {
            let bias = product.bias.map_or(0, CudaBuffer::address);
            let to = (bias, product.out.address());
            self.run_stream(
                (product, Kind::Gated),
                part,
                (x, rows),
                &plan,
                (to, part.rows / 2),
            )
        }))
    }

    /// The product with one part for up to 64 rows, if it is the faster way; `to` is the bias, the columns of a row of results
    /// and where the first is.
    pub(super) fn stream_int4(
        &self,
        product: &Product<'_>,
        part: &Part,
        x: (u64, usize),
        (bias, stride, out): (u64, usize, u64),
    ) -> Option<Result<(), BackendError>> {
        let plan = self.linear_plan(part, x.1)?;
        Some(self.run_stream((product, Kind::Linear), part, x, &plan, ((bias, out), stride)))
    }

    fn linear_plan(&self, part: &Part, rows: usize) -> Option<Plan> {
        let chunks = part.rows.div_ceil(TILE) * part.chunks();
        if rows > STREAM_ROWS || rows <= 16 && chunks < LEAST_CHUNKS * self.device.facts.num_sms {
            return None;
        }
        self.stream_plan(&Task::new(part, rows, Kind::Linear))
    }

    fn stream_plan(&self, task: &Task) -> Option<Plan> {
        let facts = &self.device.facts;
        (facts.capability >= (9, 0)).then(|| task.plan(facts.num_sms))?
    }

    fn run_stream(
        &self,
        (product, kind): (&Product<'_>, Kind),
        part: &Part,
        x: (u64, usize),
        plan: &Plan,
        (to, stride): ((u64, u64), usize),
    ) -> Result<(), BackendError> {
        self.stream_launch_int4((product, kind), part, x, plan, to)?
            .int(stride)
            .int(usize::from(product.out.element() == Element::F32))
            .owed(product.owed)
            .run()
    }

    /// With all arguments but those of the kind's own; `to` is the bias and where the first result is.
    fn stream_launch_int4(
        &self,
        (product, kind): (&Product<'_>, Kind),
        part: &Part,
        (x, rows): (u64, usize),
        plan: &Plan,
        (bias, out): (u64, u64),
    ) -> Result<Launch<'_>, BackendError> {
        let task = Task {
            rows,
            ..Task::new(part, rows, kind)
        };
        let kernel = format!(
            "int4_{}_{}_g{}_{}",
            kind.name(),
            kernel_rows(rows) / 8,
            part.group,
            product.weight.element.name()
        );
        let launch = self.device.kernel(&kernel)?;
        Ok(launch
            .grid(plan.clusters * plan.slices, 1, 1)
            .threads(32 * plan.across * plan.along)
            .shared(task.shared_bytes(plan).max(task.least_shared_bytes()))
            .cluster(plan.slices)
            .wide(x)
            .wide(part.levels.address())
            .wide(part.scales.address())
            .wide(part.zeros())
            .wide(bias)
            .int(rows)
            .int(task.width)
            .int(part.cols)
            .wide(out)
            .int(plan.slices)
            .int(plan.across)
            .int(plan.along)
            .int(plan.rounds)
            .int(usize::from(plan.often))
            .int(usize::from(plan.over)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUM_SMS: usize = 132;

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
        for rows in [16, 32, 64] {
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
                    let Some(plan) = task.plan(NUM_SMS) else {
                        assert!(rows > 16, "no plan for {width} x {k}");
                        continue;
                    };
                    assert!(task.shared_bytes(&plan) <= SHARED_BYTES);
                    assert!(plan.across * plan.along <= task.warps());
                    assert!(plan.clusters * plan.slices <= NUM_SMS);
                    let own = plan.across * plan.rounds * if kind == Kind::Gated { TILE / 2 } else { TILE };
                    assert!(own * plan.clusters >= width, "{plan:?} of {width} x {k}");
                }
            }
        }
    }
}
