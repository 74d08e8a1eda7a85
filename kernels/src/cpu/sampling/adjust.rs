//! Logit bias, penalties and grammar masks.

use crate::{
    backend::BackendError,
    cpu::{sampling::Workspace, shape_error},
    ops::SampleRow,
};

/// Whether the row asks for anything here.
pub(super) fn is_needed(row: &SampleRow<'_>) -> bool {
    !row.logit_bias.is_empty() || repeats(row) || counts(row) || row.allowed.is_some()
}

fn repeats(row: &SampleRow<'_>) -> bool {
    row.repetition_penalty != 1.0
}

fn counts(row: &SampleRow<'_>) -> bool {
    row.presence_penalty != 0.0 || row.frequency_penalty != 0.0
}

/// Refuses ids past the vocabulary, in the lists that the row makes use of, and a mask for another vocabulary.
pub(super) fn check_row(row: &SampleRow<'_>, vocab: usize) -> Result<(), BackendError> {
    let check = |what: &str, id: Option<u32>| match id {
        Some(id) if id as usize >= vocab => Err(shape_error(format!(
            "sample: {what} names token {id} of a vocabulary of {vocab}"
        ))),
        _ => Ok(()),
    };
    check("logit_bias", row.logit_bias.iter().map(|&(id, _)| id).max())?;
    if repeats(row) {
        check("prompt", row.prompt.iter().copied().max())?;
    }
    if repeats(row) || counts(row) {
        check("generated", row.generated.iter().copied().max())?;
    }
    check_mask(row, vocab)
}

/// Refuses a mask for another vocabulary.
pub(crate) fn check_mask(row: &SampleRow<'_>, vocab: usize) -> Result<(), BackendError> {
    match row.allowed {
        Some(words) if words.len() != vocab.div_ceil(32) => Err(shape_error(format!(
            "sample: a mask of {} words for a vocabulary of {vocab}",
            words.len()
        ))),
        _ => Ok(()),
    }
}

/// Bias first, then the repetition penalty, then presence and frequency, then the mask.
pub(super) fn adjust(logits: &mut [f32], row: &SampleRow<'_>, workspace: &mut Workspace) {
    for &(id, bias) in row.logit_bias {
        logits[id as usize] += bias;
    }
    if repeats(row) {
        penalize_repetition(logits, row, &mut workspace.seen);
    }
    if counts(row) {
        let ids = &mut workspace.ids;
        ids.clear();
        ids.extend_from_slice(row.generated);
        ids.sort_unstable();
        for run in ids.chunk_by(|a, b| a == b) {
            let penalty = row.presence_penalty + row.frequency_penalty * run.len() as f32;
            logits[run[0] as usize] -= penalty;
        }
    }
    if let Some(words) = row.allowed {
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Once for each distinct id, however often it occurs.
fn penalize_repetition(logits: &mut [f32], row: &SampleRow<'_>, seen: &mut Vec<u64>) {
    seen.clear();
    seen.resize(logits.len().div_ceil(64), 0);
    for &id in row.prompt.iter().chain(row.generated) {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if seen[word] & bit != 0 {
            continue;
        }
        seen[word] |= bit;
        let logit = &mut logits[id as usize];
        if *logit > 0.0 {
            *logit /= row.repetition_penalty;
        } else {
            *logit *= row.repetition_penalty;
        }
    }
}
