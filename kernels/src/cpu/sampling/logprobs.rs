//! Log probabilities.

use crate::{
    cpu::{
        CpuBackend,
        sampling::{
            Workspace,
            candidates::{Candidate, select_top},
            scan::{BLOCK, Max, Weights},
        },
    },
    ops::TokenLogprobs,
};

/// See [`crate::ops::SamplingOps::logprobs`].
pub(super) fn logprobs(
    backend: &CpuBackend,
    logits: &[f32],
    token: u32,
    top: usize,
    workspace: &mut Workspace,
) -> TokenLogprobs {
    let max = backend.vectorize(Max { logits }).min(f32::MAX);
    if max == f32::NEG_INFINITY {
        return TokenLogprobs {
            chosen: f32::NEG_INFINITY,
            top: Vec::new(),
        };
    }
    workspace.weights.resize(logits.len(), 0.0);
    workspace.sums.resize(logits.len().div_ceil(BLOCK), 0.0);
    backend.vectorize(Weights {
        logits,
        max,
        inverse_temperature: 1.0,
        weights: &mut workspace.weights,
        sums: &mut workspace.sums,
    });
    let log_sum = workspace.sums.iter().sum::<f64>().ln();
    // The distance from the maximum is small where it matters: taken first, it loses no digits.
    let logprob = |logit: f32| {
        if logit.is_nan() {
            return f32::NEG_INFINITY;
        }
        (f64::from(logit.min(f32::MAX)) - f64::from(max) - log_sum) as f32
    };
    let kept = &mut workspace.selection;
    select_top(backend, logits, top.min(logits.len()), kept);
    kept.sort_unstable_by(Candidate::rank);
    TokenLogprobs {
        chosen: logprob(logits[token as usize]),
        top: kept
            .iter()
            .map(|candidate| (candidate.id, logprob(candidate.logit)))
            .collect(),
    }
}
