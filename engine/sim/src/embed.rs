//! Vectors that stand for embeddings.

use crate::text::{hash_ids, mix};

/// A unit vector that depends on `ids` alone, cut to `dimensions` and normalised again where asked for.
pub(crate) fn embedding(ids: &[u32], dims: usize, dimensions: Option<usize>) -> Vec<f32> {
    let mut state = hash_ids(0, ids);
    let mut vector: Vec<f32> = (0..dims)
        .map(|_| {
            state = mix(state);
            // 24 bits fill an f32's mantissa: a number in -1..1.
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    vector.truncate(dimensions.unwrap_or(dims));
    let norm = vector
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}
