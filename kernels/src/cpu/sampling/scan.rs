//! Passes over a whole row of logits.

use crate::cpu::lanes::{self, Kernel, LANES, Lanes};

/// Elements whose f32 sum is taken before it enters an f64 one: sixteen additions a lane.
pub(super) const BLOCK: usize = 256;

/// The largest logit; NaN is passed over.
pub(super) struct Max<'a> {
    pub(super) logits: &'a [f32],
}

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> f32 {
        const LOWEST: f32 = f32::NEG_INFINITY;
        // Four at a time: one maximum has to wait for the one before.
        let mut largest = [s.splat(LOWEST); 4];
        let (quads, rest) = self.logits.as_chunks::<{ 4 * LANES }>();
        for quad in quads {
            for (largest, x) in largest.iter_mut().zip(quad.as_chunks().0) {
                // `max` gives its second operand where the first is NaN.
                *largest = s.max(s.load(x), *largest);
            }
        }
        for (largest, x) in largest.iter_mut().zip(rest.chunks(LANES)) {
            *largest = s.max(s.load_partial(x, LOWEST), *largest);
        }
        s.max_lane(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])))
    }
}

/// The first id whose logit is `max`.
pub(super) fn first_of(logits: &[f32], max: f32) -> u32 {
    const STEP: usize = 64;
    let near = logits
        .chunks(STEP)
        .position(|chunk| chunk.iter().fold(false, |any, &x| any | (x == max)));
    let start = near.unwrap_or(0) * STEP;
    let within = logits[start..].iter().position(|&x| x == max).unwrap_or(0);
    (start + within) as u32
}

/// `weights = e^((logit - max) * inverse_temperature)`, and their sums over blocks of [`BLOCK`].
pub(super) struct Weights<'a> {
    pub(super) logits: &'a [f32],
    pub(super) max: f32,
    pub(super) inverse_temperature: f32,
    pub(super) weights: &'a mut [f32],
    /// `(logits.len().div_ceil(BLOCK))`.
    pub(super) sums: &'a mut [f64],
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self {
            logits,
            weights,
            sums,
            ..
        } = self;
        let max = s.splat(self.max.min(f32::MAX));
        let inverse_temperature = s.splat(self.inverse_temperature);
        for ((logits, weights), sum) in logits.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)).zip(sums) {
            let (logits, logits_rest) = logits.as_chunks::<LANES>();
            let (weights, weights_rest) = weights.as_chunks_mut::<LANES>();
            let mut lanes = s.splat(0.0);
            for (x, weight) in logits.iter().zip(weights) {
                let w = weigh(s, s.load(x), max, inverse_temperature);
                lanes = s.add(lanes, w);
                s.store(w, weight);
            }
            let rest = s.load_partial(logits_rest, f32::NEG_INFINITY);
            let w = weigh(s, rest, max, inverse_temperature);
            s.store_partial(w, weights_rest);
            *sum = f64::from(s.sum(s.add(lanes, w)));
        }
    }
}

#[inline(always)]
fn weigh<S: Lanes>(s: S, x: S::V, max: S::V, inverse_temperature: S::V) -> S::V {
    // NaN becomes minus infinity, plus infinity the largest number.
    let x = s.min(s.max(x, s.splat(f32::NEG_INFINITY)), s.splat(f32::MAX));
    lanes::exp(s, s.mul(s.sub(x, max), inverse_temperature))
}

/// Calls `f` with every index whose value is greater than `f`'s last answer, in order; `floor` is the first.
pub(super) struct Above<'a, F> {
    pub(super) values: &'a [f32],
    pub(super) floor: f32,
    pub(super) found: F,
}

impl<F: FnMut(usize, f32) -> f32> Kernel for Above<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let mut floor = self.floor;
        let (chunks, rest) = self.values.as_chunks::<LANES>();
        for (at, x) in chunks.iter().enumerate() {
            if s.any_gt(s.load(x), s.splat(floor)) {
                for (lane, &x) in x.iter().enumerate() {
                    if x > floor {
                        floor = (self.found)(at * LANES + lane, x);
                    }
                }
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            if x > floor {
                floor = (self.found)(chunks.len() * LANES + lane, x);
            }
        }
    }
}
