use ferrum_kernels::Backend;

use crate::{LoadError, config::rope::RopeConfig, weights::loader::WeightLoader};

/// The table of a rotary embedding for positions `0..max_positions`.
///
/// llama.cpp stores Llama 3's scaling as a tensor of divisors, `rope_freqs.weight`; where it is there it is used.
pub(crate) fn build_rotary_table<B: Backend>(
    loader: &WeightLoader<'_, B>,
    rope: &RopeConfig,
    head_dim: usize,
    max_positions: usize,
) -> Result<B::Buffer, LoadError> {
    const DIVISORS: &str = "rope_freqs.weight";
    let divisors = match loader.weights.contains(DIVISORS) {
        true => Some(loader.weights.dense_vector(DIVISORS, head_dim / 2)?),
        false => None,
    };
    let inv_freq = rope.inv_freq(head_dim, divisors.as_deref());
    let table = loader.backend.prepare_rope(&inv_freq, max_positions);
    table.map_err(|source| loader.failed("rotary table", source))
}
