//! The two products of attention, blocked in registers: `R` query rows by `C` vectors.
//!
//! Which block a row is part of does not change its result: every score is one chain of multiply-adds over
//! the head's elements in order, every output element one chain over the keys in order.
#![allow(clippy::needless_range_loop)] // the counts are constants, and index several arrays

use crate::cpu::{
    attention::element::Element,
    lanes::{Kernel, LANES, Lanes},
};

/// Keys of a tile: scores of a tile are normalised together, and tiles are merged in order.
pub(super) const TILE: usize = 256;

/// Vectors of keys in a tile.
pub(super) const GROUPS: usize = TILE / LANES;

/// Most groups whose keys are asked for ahead of their use.
pub(super) const AHEAD: usize = 4;

/// Most query rows of a block.
pub(super) const MAX_ROWS: usize = 6;

/// Where the keys and values of a tile are, in groups of sixteen consecutive positions. Only groups that some
/// query of the task sees are set.
pub(super) struct Tile<E> {
    /// Each `(head_dim, key_stride)`, sixteen elements of a row used; then the first of the next tile, if there
    /// is one, which are only asked for.
    pub(super) keys: [*const E; GROUPS + AHEAD],
    pub(super) key_stride: usize,
    /// Each `(16, value_stride)`.
    pub(super) values: [*const E; GROUPS],
    pub(super) value_stride: usize,
}

/// `scores[r][16 * (group + c) ..] = q[r] . keys`.
pub(super) struct Scores<'a, E, const R: usize, const C: usize> {
    /// `(R, head_dim)`, scaled.
    pub(super) q: *const f32,
    pub(super) head_dim: usize,
    pub(super) tile: &'a Tile<E>,
    pub(super) group: usize,
    /// `(R, TILE)`.
    pub(super) scores: *mut f32,
}

impl<E: Element, const R: usize, const C: usize> Kernel for Scores<'_, E, R, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let keys: [*const E; C] = std::array::from_fn(|c| self.tile.keys[self.group + c]);
        let mut sums = [[s.splat(0.0); C]; R];
        for d in 0..self.head_dim {
            let mut k = [s.splat(0.0); C];
            for c in 0..C {
                // SAFETY: the group holds sixteen elements for each element of the head.
                k[c] = E::load(s, unsafe { &*keys[c].add(d * self.tile.key_stride).cast() });
            }
            if E::FROM_MEMORY {
                // The next groups' keys and these groups' values, as much of each as was used of these keys.
                for c in 0..C {
                    let next = self.tile.keys[self.group + C + c];
                    s.prefetch(next.wrapping_add(d * self.tile.key_stride).cast());
                    let values = self.tile.values[self.group + c];
                    s.prefetch(values.wrapping_add(d * LANES).cast());
                }
            }
            for r in 0..R {
                // SAFETY: `q` holds `R` rows.
                let q = s.splat(unsafe { *self.q.add(r * self.head_dim + d) });
                for c in 0..C {
                    sums[r][c] = s.mul_add(q, k[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: `scores` holds `R` rows of `TILE`, and `group + C` groups are within a tile.
                let to = unsafe { &mut *self.scores.add(r * TILE + (self.group + c) * LANES).cast() };
                s.store(sums[r][c], to);
            }
        }
    }
}

/// `sums[r][column ..] += sum of weights[r][key] * values[key][column ..]` over keys in `range`.
pub(super) struct WeightedSum<'a, E, const R: usize, const C: usize> {
    /// `(R, TILE)`.
    pub(super) weights: *const f32,
    pub(super) tile: &'a Tile<E>,
    /// First key and the one after the last, within the tile.
    pub(super) range: (usize, usize),
    pub(super) column: usize,
    /// `(R, width)`.
    pub(super) sums: *mut f32,
    pub(super) width: usize,
}

impl<E: Element, const R: usize, const C: usize> Kernel for WeightedSum<'_, E, R, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let at = |r: usize, c: usize| r * self.width + self.column + c * LANES;
        let mut sums = [[s.splat(0.0); C]; R];
        for r in 0..R {
            for c in 0..C {
                // SAFETY: `sums` holds `R` rows of `width`, and `C` vectors fit behind `column`.
                sums[r][c] = s.load(unsafe { &*self.sums.add(at(r, c)).cast() });
            }
        }
        let (from, to) = self.range;
        for group in from / LANES..to.div_ceil(LANES) {
            let keys = from.max(group * LANES)..to.min((group + 1) * LANES);
            let values = self.tile.values[group];
            for key in keys {
                let mut v = [s.splat(0.0); C];
                for c in 0..C {
                    let offset = (key - group * LANES) * self.tile.value_stride + self.column + c * LANES;
                    // SAFETY: the group holds sixteen rows of `value_stride`.
                    v[c] = E::load(s, unsafe { &*values.add(offset).cast() });
                }
                for r in 0..R {
                    // SAFETY: `weights` holds `R` rows of `TILE`, and `key` is within the tile.
                    let weight = s.splat(unsafe { *self.weights.add(r * TILE + key) });
                    for c in 0..C {
                        sums[r][c] = s.mul_add(weight, v[c], sums[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: as for the loads above.
                s.store(sums[r][c], unsafe { &mut *self.sums.add(at(r, c)).cast() });
            }
        }
    }
}
