//! The running softmax of one query row.

use crate::cpu::{
    attention::micro::TILE,
    lanes::{self, LANES, Lanes},
};

/// What a query row has seen so far. Scores are in units of log2.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowState {
    /// The largest score.
    pub(super) max: f32,
    /// Sum of `2^(score - max)`.
    pub(super) sum: f32,
}

impl RowState {
    /// Before the first tile.
    pub(super) const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Whether no key was seen.
    fn is_empty(self) -> bool {
        self.sum == 0.0
    }
}

/// Turns the scores of the keys in `range` into `2^(score - max)`. Other elements are left undefined.
#[inline(always)]
pub(super) fn softmax<S: Lanes>(s: S, scores: &mut [f32; TILE], (from, to): (usize, usize)) -> RowState {
    let vectors = from / LANES..to.div_ceil(LANES);
    let scores = &mut scores.as_chunks_mut::<LANES>().0[vectors.clone()];
    let hidden = s.splat(f32::NEG_INFINITY);
    // Only the first and the last vector can hold keys outside of the range.
    let last = scores.len() - 1;
    for at in [0, last] {
        let index = s.add(s.iota(), s.splat(((vectors.start + at) * LANES) as f32));
        let x = s.load(&scores[at]);
        let x = s.select_lt(index, s.splat(from as f32), hidden, x);
        s.store(s.select_lt(index, s.splat(to as f32), x, hidden), &mut scores[at]);
    }
    // Four of each, in turn: one maximum or sum has to wait for the one before.
    let mut largest = [hidden; 4];
    let (quads, rest) = scores.as_chunks::<4>();
    for x in quads {
        for (largest, x) in largest.iter_mut().zip(x) {
            *largest = s.max(*largest, s.load(x));
        }
    }
    for (largest, x) in largest.iter_mut().zip(rest) {
        *largest = s.max(*largest, s.load(x));
    }
    let max = s.max_lane(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])));
    let base = s.splat(max);
    let mut sums = [s.splat(0.0); 4];
    let (quads, rest) = scores.as_chunks_mut::<4>();
    for x in quads {
        for (sum, x) in sums.iter_mut().zip(x) {
            add_power(s, x, base, sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        add_power(s, x, base, sum);
    }
    RowState {
        max,
        sum: s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))),
    }
}

#[inline(always)]
fn add_power<S: Lanes>(s: S, x: &mut [f32; LANES], base: S::V, sum: &mut S::V) {
    let power = lanes::exp2(s, s.sub(s.load(x), base));
    *sum = s.add(*sum, power);
    s.store(power, x);
}

/// Adds a tile (`part`, weighted sum `values`) to what the row has seen before (`state`, `out`).
#[inline(always)]
pub(super) fn merge<S: Lanes>(s: S, state: &mut RowState, out: &mut [f32], part: RowState, values: &[f32]) {
    if part.is_empty() {
        return;
    }
    if state.is_empty() {
        *state = part;
        out.copy_from_slice(values);
        return;
    }
    let max = if part.max > state.max { part.max } else { state.max };
    let mut scales = [0.0; LANES];
    let exponents = s.load_partial(&[state.max - max, part.max - max], 0.0);
    s.store(lanes::exp2(s, exponents), &mut scales);
    let (old, new) = (s.splat(scales[0]), s.splat(scales[1]));
    state.sum = state.sum * scales[0] + part.sum * scales[1];
    state.max = max;
    let values = values.as_chunks::<LANES>().0;
    for (out, values) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(values) {
        let kept = s.mul(s.load(out), old);
        s.store(s.mul_add(s.load(values), new, kept), out);
    }
}
