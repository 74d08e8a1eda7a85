//! Sampling in plain f64, after a sort of the whole vocabulary.

use std::collections::BTreeMap;

use ferrum_kernels::{
    Backend,
    cpu::{CpuBackend, CpuBuffer, Isa, detect},
    ops::{SampleRow, SamplingOps},
};

use crate::support::Random;

pub(crate) fn backends(threads: usize) -> impl Iterator<Item = CpuBackend> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
        .map(move |isa| CpuBackend::with_isa(threads, isa))
}

/// A row that samples from the model's own distribution.
pub(crate) fn plain() -> SampleRow<'static> {
    SampleRow {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: &[],
        allowed: None,
        prompt: &[],
        generated: &[],
        seed: 42,
        position: 0,
    }
}

/// Logits as models have them: a few tokens far above a broad rest.
pub(crate) fn logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    (0..vocab)
        .map(|_| {
            let x = 3.0 * (random.unit() + random.unit());
            if random.below(200) == 0 { x + 8.0 } else { x }
        })
        .collect()
}

pub(crate) fn buffer(backend: &CpuBackend, values: &[f32]) -> CpuBuffer {
    let mut buffer = backend.alloc(values.len()).expect("memory");
    backend.write(values, &mut buffer).expect("it fits");
    buffer
}

/// One id for each of `rows`, all of the same logits.
pub(crate) fn sample(backend: &CpuBackend, logits: &[f32], rows: &[SampleRow<'_>]) -> Vec<u32> {
    let repeated: Vec<f32> = rows.iter().flat_map(|_| logits.iter().copied()).collect();
    let before = buffer(backend, &repeated);
    let mut out = backend.alloc_indices(rows.len()).expect("memory");
    out.fill(u32::MAX);
    backend
        .sample(&before, logits.len(), rows, &mut out)
        .expect("rows that make sense");
    let unchanged = before
        .iter()
        .zip(&repeated)
        .all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(unchanged, "logits are not to be changed");
    out.to_vec()
}

/// The probability of every id, after bias, penalties, temperature, top-k, top-p and min-p, in this order.
pub(crate) fn distribution(logits: &[f32], row: &SampleRow<'_>) -> Vec<f64> {
    let mut ranked: Vec<(usize, f64)> = adjusted(logits, row)
        .into_iter()
        .enumerate()
        .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if row.top_k > 0 {
        ranked.truncate(row.top_k as usize);
    }
    let max = ranked[0].1;
    let weights: Vec<f64> = ranked
        .iter()
        .map(|(_, logit)| ((logit - max) / f64::from(row.temperature)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    let mut kept = weights.len();
    if row.top_p < 1.0 {
        let mut reached = 0.0;
        kept = 1 + weights
            .iter()
            .position(|weight| {
                reached += weight / sum;
                reached >= f64::from(row.top_p)
            })
            .unwrap_or(weights.len() - 1);
    }
    let likely = |weight: &f64| *weight >= f64::from(row.min_p);
    kept = kept.min(weights.iter().take_while(|weight| likely(weight)).count());
    let sum: f64 = weights[..kept].iter().sum();
    let mut out = vec![0.0; logits.len()];
    for ((id, _), weight) in ranked[..kept].iter().zip(&weights) {
        out[*id] = weight / sum;
    }
    out
}

fn adjusted(logits: &[f32], row: &SampleRow<'_>) -> Vec<f64> {
    let mut out: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    for &(id, bias) in row.logit_bias {
        out[id as usize] += f64::from(bias);
    }
    let mut counts: BTreeMap<u32, (bool, u32)> = BTreeMap::new();
    for &id in row.prompt {
        counts.entry(id).or_default().0 = true;
    }
    for &id in row.generated {
        counts.entry(id).or_default().1 += 1;
    }
    for (id, (_, count)) in counts {
        let logit = &mut out[id as usize];
        let penalty = f64::from(row.repetition_penalty);
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
        };
        if count > 0 {
            *logit -= f64::from(row.presence_penalty) + f64::from(row.frequency_penalty) * f64::from(count);
        }
    }
    out
}
