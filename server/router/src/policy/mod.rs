//! Which replica gets a request: a pure choice among candidates.
//!
//! Whoever calls a policy counts the request on the chosen replica before the next choice is made, so that a burst
//! of simultaneous requests spreads.

mod least_tokens;

pub use least_tokens::LeastTokens;

/// A choice among replicas that could all take the request.
pub trait Policy: Send + Sync + 'static {
    /// Index of the chosen candidate; `None` only for an empty slice. `turn` grows by one a request, for ties.
    fn choose(&self, candidates: &[Candidate], turn: usize) -> Option<usize>;
}

/// What is known of a replica at the moment of the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Tokens of this router's requests on it: estimated prompts not answered yet and completions not finished.
    pub tokens_in_flight: u64,
    /// Tokens that it has to do for others, as far as its last report tells.
    pub foreign_tokens: u64,
    /// How sure it is to answer; less sure ones are chosen only where no other is left.
    pub standing: Standing,
}

/// How sure a replica is to answer, the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It says so itself.
    #[default]
    Confirmed,
    /// Its telemetry was lost a moment ago.
    Suspect,
    /// It has failed a request a moment ago.
    Penalized,
}

/// What a request is expected to cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Tokens to read.
    pub prompt: u64,
    /// Tokens to make.
    pub completion: u64,
}

impl Demand {
    /// Both together, at least 1, so that no request is for free.
    pub fn tokens(self) -> u64 {
        self.prompt.saturating_add(self.completion).max(1)
    }
}
