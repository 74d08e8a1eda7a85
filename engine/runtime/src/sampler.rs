//! From a request's sampling parameters to a row of [`SamplingOps::sample`](ferrum_kernels::ops::SamplingOps).

use ferrum_kernels::ops::SampleRow;

use crate::scheduler::Sequence;

/// How the next token of `sequence` is drawn.
///
/// The draw depends on the seed and on the position alone, never on the step or on what else is in it.
pub fn sample_row(sequence: &Sequence) -> SampleRow<'_> {
    let sampling = sequence.sampling();
    SampleRow {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: &sampling.logit_bias,
        allowed: None,
        prompt: sequence.prompt(),
        generated: sequence.generated(),
        seed: sampling.seed,
        position: sequence.tokens().len() as u64,
    }
}
