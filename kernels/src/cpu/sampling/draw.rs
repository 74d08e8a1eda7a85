//! Temperature, top-k, top-p, min-p, and the draw.

use std::cmp::Ordering;

use crate::{
    cpu::{
        CpuBackend, philox,
        sampling::{
            Workspace,
            candidates::{Candidate, nucleus_end, select_top},
            scan::{Above, BLOCK, Weights},
        },
    },
    ops::SampleRow,
};

/// Draws an id; `max` is the largest logit, above minus infinity.
pub(super) fn draw(
    backend: &CpuBackend,
    (logits, max): (&[f32], f32),
    row: &SampleRow<'_>,
    workspace: &mut Workspace,
) -> u32 {
    let uniform = philox::uniform(row.seed, row.position);
    let filters = Filters::new(row, logits.len());
    // Bounded, so that zero (the likeliest token's distance) stays zero.
    let inverse_temperature = row.temperature.recip().min(f32::MAX);
    let scale = (max, inverse_temperature);
    if let Some(k) = filters.top_k {
        keep_top(backend, (logits, k), scale, workspace);
        let total = sum(&workspace.candidates);
        filters.apply(total, workspace);
        return draw_candidate(&workspace.candidates, uniform);
    }
    weigh(backend, logits, scale, workspace);
    let total: f64 = workspace.sums.iter().sum();
    if filters.keep_all() {
        return draw_any(workspace, uniform * total);
    }
    gather(backend, logits, filters.floor(total, logits.len()), workspace);
    filters.apply(total, workspace);
    draw_candidate(&workspace.candidates, uniform)
}

/// The filters in force.
struct Filters {
    top_k: Option<usize>,
    top_p: Option<f64>,
    /// 0 keeps all.
    min_p: f32,
}

impl Filters {
    fn new(row: &SampleRow<'_>, vocab: usize) -> Self {
        let k = row.top_k as usize;
        Self {
            top_k: (1..vocab).contains(&k).then_some(k),
            top_p: (row.top_p < 1.0).then_some(f64::from(row.top_p)),
            min_p: if row.min_p > 0.0 { row.min_p.min(1.0) } else { 0.0 },
        }
    }

    fn keep_all(&self) -> bool {
        self.top_p.is_none() && self.min_p == 0.0
    }

    /// A weight below which no token is kept. All tokens lighter than `(1 - top_p) / vocab` of the total
    /// together weigh less than `1 - top_p` of it, so that the others reach `top_p` without them.
    fn floor(&self, total: f64, vocab: usize) -> f32 {
        // Room for the rounding of the weights, of their sum and of this.
        const ROOM: f64 = 1.0 - 1e-4;
        let top_p = self.top_p.map_or(0.0, |p| (1.0 - p) * total / vocab as f64);
        let floor = top_p.max(f64::from(self.min_p)) * ROOM;
        // The likeliest token, of weight 1, always stays.
        floor.min(0.5) as f32
    }

    /// Drops what the filters do not keep; the candidates stay in the order of their ids.
    fn apply(&self, total: f64, workspace: &mut Workspace) {
        let Workspace {
            candidates,
            selection,
            ..
        } = workspace;
        if let Some(p) = self.top_p {
            selection.clear();
            selection.extend_from_slice(candidates);
            let last = nucleus_end(selection, p * total);
            candidates.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
        }
        if self.min_p > 0.0 {
            candidates.retain(|candidate| candidate.weight >= self.min_p);
        }
    }
}

/// Fills `workspace.candidates` with the `k` first-ranked tokens and their weights, in the order of ids.
fn keep_top(
    backend: &CpuBackend,
    (logits, k): (&[f32], usize),
    (max, inverse_temperature): (f32, f32),
    workspace: &mut Workspace,
) {
    select_top(backend, logits, k, &mut workspace.selection);
    let Some(last) = workspace.selection.iter().copied().max_by(|a, b| a.rank(b)) else {
        workspace.candidates.clear();
        return;
    };
    // A second pass puts them in order; sorting them would cost more where k is large.
    let candidates = &mut workspace.candidates;
    candidates.clear();
    let below = last.logit.next_down();
    backend.vectorize(Above {
        values: logits,
        floor: below,
        found: |id, logit| {
            let candidate = Candidate {
                logit,
                id: id as u32,
                weight: 0.0,
            };
            if candidate.rank(&last) != Ordering::Greater {
                candidates.push(candidate);
            }
            below
        },
    });
    let logits: Vec<f32> = candidates.iter().map(|candidate| candidate.logit).collect();
    weigh(backend, &logits, (max, inverse_temperature), workspace);
    for (candidate, weight) in workspace.candidates.iter_mut().zip(&workspace.weights) {
        candidate.weight = *weight;
    }
}

/// Fills `workspace.weights` and `workspace.sums`.
fn weigh(
    backend: &CpuBackend,
    logits: &[f32],
    (max, inverse_temperature): (f32, f32),
    workspace: &mut Workspace,
) {
    workspace.weights.resize(logits.len(), 0.0);
    workspace.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
    backend.vectorize(Weights {
        logits,
        max,
        inverse_temperature,
        weights: &mut workspace.weights,
        sums: &mut workspace.sums,
    });
}

/// Fills `workspace.candidates` with the tokens that weigh more than `floor`, in the order of ids.
fn gather(backend: &CpuBackend, logits: &[f32], floor: f32, workspace: &mut Workspace) {
    let Workspace {
        candidates, weights, ..
    } = workspace;
    candidates.clear();
    backend.vectorize(Above {
        values: weights,
        floor,
        found: |id, weight| {
            candidates.push(Candidate {
                logit: logits[id],
                id: id as u32,
                weight,
            });
            floor
        },
    });
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates
        .iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
}

/// The candidate at `uniform` of the way through the weights.
fn draw_candidate(candidates: &[Candidate], uniform: f64) -> u32 {
    let target = uniform * sum(candidates);
    let weights = candidates.iter().map(|candidate| candidate.weight);
    let at = walk(weights, target);
    candidates.get(at).map_or(0, |candidate| candidate.id)
}

/// The token at `target` of all weights.
fn draw_any(workspace: &Workspace, target: f64) -> u32 {
    let Workspace { weights, sums, .. } = workspace;
    let mut passed = 0.0;
    // The last block with a weight, if rounding keeps the sum of all below the target.
    let mut found = (0, 0.0);
    for (block, &sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        found = (block, passed);
        passed += sum;
        if passed > target {
            break;
        }
    }
    let (block, passed) = found;
    let start = block * BLOCK;
    let block = &weights[start..weights.len().min(start + BLOCK)];
    (start + walk(block.iter().copied(), target - passed)) as u32
}

/// The first index at which the running sum exceeds `target`; the last with a weight if rounding keeps the
/// sum below. An index without a weight is never given.
fn walk(weights: impl Iterator<Item = f32>, target: f64) -> usize {
    let mut passed = 0.0;
    let mut last = 0;
    for (at, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = at;
            passed += f64::from(weight);
            if passed > target {
                break;
            }
        }
    }
    last
}
