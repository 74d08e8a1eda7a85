//! What one step computes.

use ferrum_engine::{FinishReason, Usage};

use super::SequenceId;

/// One step: rows of sequences, in the order in which they are laid end to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ScheduledBatch {
    /// Decode rows first, then prefill chunks in the order of arrival.
    pub rows: Vec<ScheduledRow>,
    /// Prompt tokens among them.
    pub num_prefill_tokens: usize,
    /// Prompt tokens that need no computing, as they were found in the cache just now.
    pub num_cached_tokens: usize,
    /// Sequences that this step has admitted: the last so many of the running ones.
    pub num_admitted: usize,
}

impl ScheduledBatch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens to compute.
    pub fn num_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.num_tokens).sum()
    }

    /// Rows of one token that follow a computed prompt.
    pub fn num_decode_tokens(&self) -> usize {
        self.num_tokens() - self.num_prefill_tokens
    }
}

/// The part of a sequence that a step computes: `num_tokens` tokens from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRow {
    /// Index into [`Scheduler::running`](super::Scheduler::running), until the step is committed.
    pub index: usize,
    /// First token; all before it are in the cache.
    pub start: usize,
    /// Tokens; at least one.
    pub num_tokens: usize,
    /// Whether a token is drawn after the last of them: it is the last that the sequence has.
    pub samples: bool,
}

/// A step that was asked for and has brought nothing yet. It names sequences, as they may go away in the meantime.
#[derive(Debug)]
pub struct LaunchedBatch {
    pub(super) rows: Vec<LaunchedRow>,
}

#[derive(Debug)]
pub(super) struct LaunchedRow {
    pub(super) id: SequenceId,
    /// Tokens of the sequence that are computed with it; the next is drawn, if the row samples.
    pub(super) end: usize,
    pub(super) samples: bool,
}

/// What a step brought one sequence: a token, and the end if that was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The sequence.
    pub id: SequenceId,
    /// Which of the step's draws it is.
    pub draw: usize,
    /// The token drawn.
    pub token: u32,
    /// Why it ended, and its usage; its blocks are free already.
    pub finished: Option<(FinishReason, Usage)>,
}
