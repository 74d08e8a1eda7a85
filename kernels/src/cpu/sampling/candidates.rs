//! Tokens that a filter may keep, and their ranking.

use std::cmp::Ordering;

use crate::cpu::{CpuBackend, sampling::scan::Above};

/// A token in the running.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) id: u32,
    /// Unnormalised probability.
    pub(super) weight: f32,
}

impl Candidate {
    /// Likelier first; of two alike the lower id.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        // Never NaN: a candidate's logit is greater than minus infinity.
        let by_logit = other.logit.partial_cmp(&self.logit);
        by_logit.unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// Fills `kept` with the `k` first-ranked tokens, unordered; fewer if fewer are above minus infinity.
pub(super) fn select_top(backend: &CpuBackend, logits: &[f32], k: usize, kept: &mut Vec<Candidate>) {
    kept.clear();
    if k == 0 {
        return;
    }
    // Candidates gather up to a bound, then all but the best `k` are dropped and the worst of those is the
    // bar for later ones: of equal logits the lower id, which came earlier, ranks first.
    let bound = 2 * k + 256;
    let mut bar = f32::NEG_INFINITY;
    backend.vectorize(Above {
        values: logits,
        floor: bar,
        found: |id, logit| {
            kept.push(Candidate {
                logit,
                id: id as u32,
                weight: 0.0,
            });
            if kept.len() == bound {
                kept.select_nth_unstable_by(k - 1, Candidate::rank);
                kept.truncate(k);
                bar = kept[k - 1].logit;
            }
            bar
        },
    });
    if kept.len() > k {
        kept.select_nth_unstable_by(k - 1, Candidate::rank);
        kept.truncate(k);
    }
}

/// The last-ranked candidate of the smallest first-ranked set whose weights reach `mass`. Reorders `all`,
/// which is not empty.
///
/// Halves the range by rank, and goes on in the half in which the mass is reached: linear on average.
pub(super) fn nucleus_end(all: &mut [Candidate], mass: f64) -> Candidate {
    const SORT_BELOW: usize = 64;
    let mut above = 0.0;
    let mut range = all;
    while range.len() > SORT_BELOW {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, Candidate::rank);
        let (better, worse) = range.split_at_mut(middle);
        let sum: f64 = better.iter().map(|candidate| f64::from(candidate.weight)).sum();
        if above + sum >= mass {
            range = better;
        } else {
            above += sum;
            range = worse;
        }
    }
    range.sort_unstable_by(Candidate::rank);
    for candidate in range.iter() {
        above += f64::from(candidate.weight);
        if above >= mass {
            return *candidate;
        }
    }
    range[range.len() - 1]
}
