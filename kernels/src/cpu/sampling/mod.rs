//! The sampling operations on the CPU.
//!
//! A logit that is NaN counts as minus infinity: its token is never chosen. Plus infinity counts as the
//! largest finite number. A row without any number above minus infinity gives id 0.
//!
//! Nothing sorts the vocabulary: the filters each amount to a lowest rank that is kept, found by selection,
//! and the draw walks the kept tokens in the order of their ids.

mod adjust;
mod candidates;
mod draw;
mod logprobs;
mod scan;

use std::cell::Cell;

use crate::{
    backend::BackendError,
    cpu::{CpuBackend, CpuBuffer, CpuIndices, check_len, shape_error},
    ops::{KNOWN, SampleRow, SamplingOps, TokenLogprobs},
};

#[cfg(feature = "cuda")]
pub(crate) use adjust::check_mask;
use candidates::Candidate;

/// Working memory of one row, kept by each thread.
#[derive(Default)]
struct Workspace {
    /// Logits after bias, penalties and mask.
    adjusted: Vec<f32>,
    /// Unnormalised probabilities.
    weights: Vec<f32>,
    /// Their sums, block by block.
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    selection: Vec<Candidate>,
    /// One bit a token.
    seen: Vec<u64>,
    ids: Vec<u32>,
}

thread_local! {
    static WORKSPACE: Cell<Workspace> = Cell::new(Workspace::default());
}

fn with_workspace<R>(f: impl FnOnce(&mut Workspace) -> R) -> R {
    let mut workspace = WORKSPACE.take();
    let result = f(&mut workspace);
    WORKSPACE.set(workspace);
    result
}

impl SamplingOps for CpuBackend {
    fn sample(
        &self,
        logits: &CpuBuffer,
        vocab: usize,
        rows: &[SampleRow<'_>],
        out: &mut CpuIndices,
    ) -> Result<(), BackendError> {
        check_vocab(vocab)?;
        check_len("sample: logits", logits.len(), rows.len() * vocab)?;
        check_len("sample: out", out.len(), rows.len())?;
        for row in rows {
            adjust::check_row(row, vocab)?;
        }
        self.pool().run_chunks(&mut out[..rows.len()], 1, |index, out| {
            let logits = &logits[index * vocab..][..vocab];
            out[0] = with_workspace(|workspace| self.sample_row(logits, &rows[index], workspace));
        });
        Ok(())
    }

    fn feed(
        &self,
        drawn: &CpuIndices,
        sources: &CpuIndices,
        rows: usize,
        ids: &mut CpuIndices,
    ) -> Result<(), BackendError> {
        check_len("feed: sources", sources.len(), rows)?;
        check_len("feed: ids", ids.len(), rows)?;
        for (id, &source) in ids[..rows].iter_mut().zip(&sources[..rows]) {
            if source != KNOWN {
                check_len("feed: drawn", drawn.len(), source as usize + 1)?;
                *id = drawn[source as usize];
            }
        }
        Ok(())
    }

    fn logprobs(
        &self,
        logits: &CpuBuffer,
        vocab: usize,
        row: usize,
        token: u32,
        top: usize,
    ) -> Result<TokenLogprobs, BackendError> {
        check_vocab(vocab)?;
        check_len("logprobs: logits", logits.len(), (row + 1) * vocab)?;
        if token as usize >= vocab {
            return Err(shape_error(format!(
                "logprobs: token {token} of a vocabulary of {vocab}"
            )));
        }
        let logits = &logits[row * vocab..][..vocab];
        Ok(with_workspace(|workspace| {
            logprobs::logprobs(self, logits, token, top, workspace)
        }))
    }
}

impl CpuBackend {
    fn sample_row(&self, logits: &[f32], row: &SampleRow<'_>, workspace: &mut Workspace) -> u32 {
        let mut adjusted = std::mem::take(&mut workspace.adjusted);
        let logits = if adjust::is_needed(row) {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            adjust::adjust(&mut adjusted, row, workspace);
            &adjusted
        } else {
            logits
        };
        let max = self.vectorize(scan::Max { logits });
        // NaN is not a temperature; it is refused at the door, and greedy here.
        let id = if max == f32::NEG_INFINITY {
            0
        } else if row.temperature > 0.0 {
            draw::draw(self, (logits, max), row, workspace)
        } else {
            scan::first_of(logits, max)
        };
        workspace.adjusted = adjusted;
        id
    }
}

fn check_vocab(vocab: usize) -> Result<(), BackendError> {
    if vocab == 0 || u32::try_from(vocab).is_err() {
        return Err(shape_error(format!(
            "a vocabulary has 1 to 2^32 - 1 tokens, not {vocab}"
        )));
    }
    Ok(())
}
