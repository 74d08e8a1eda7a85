//! The replica with the fewest tokens to do.

use super::{Candidate, Policy};

/// Chooses the candidate of the best standing with the fewest tokens, its own and others'; ties take turns.
///
/// Tokens and not requests: requests differ a hundredfold in length.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastTokens;

impl Policy for LeastTokens {
    fn choose(&self, candidates: &[Candidate], turn: usize) -> Option<usize> {
        let cost = |candidate: &Candidate| {
            let tokens = candidate
                .tokens_in_flight
                .saturating_add(candidate.foreign_tokens);
            (candidate.standing, tokens)
        };
        let least = candidates.iter().map(cost).min()?;
        let tied = || (0..candidates.len()).filter(|&index| cost(&candidates[index]) == least);
        tied().nth(turn % tied().count())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Standing, *};

    fn with_tokens(tokens: u64) -> Candidate {
        Candidate {
            tokens_in_flight: tokens,
            ..Candidate::default()
        }
    }

    #[test]
    fn the_fewest_tokens_win_and_others_requests_count() {
        let mut candidates = [with_tokens(30), with_tokens(20), with_tokens(25)];
        assert_eq!(LeastTokens.choose(&candidates, 7), Some(1));
        candidates[1].foreign_tokens = 6;
        assert_eq!(LeastTokens.choose(&candidates, 7), Some(2));
    }

    #[test]
    fn ties_take_turns_among_the_tied_only() {
        let candidates = [with_tokens(5), with_tokens(9), with_tokens(5)];
        let chosen: Vec<_> = (0..4)
            .filter_map(|turn| LeastTokens.choose(&candidates, turn))
            .collect();
        assert_eq!(chosen, [0, 2, 0, 2]);
    }

    #[test]
    fn a_doubtful_replica_is_the_last_resort_however_idle() {
        let mut candidates = [with_tokens(0), with_tokens(0), with_tokens(9_000)];
        candidates[0].standing = Standing::Penalized;
        candidates[1].standing = Standing::Suspect;
        assert_eq!(LeastTokens.choose(&candidates, 0), Some(2));
        assert_eq!(LeastTokens.choose(&candidates[..2], 0), Some(1));
        assert_eq!(LeastTokens.choose(&candidates[..1], 0), Some(0));
        assert_eq!(LeastTokens.choose(&[], 0), None);
    }

    #[test]
    fn a_burst_that_is_counted_at_selection_spreads_evenly() {
        let mut candidates = [with_tokens(0); 4];
        for turn in 0..40 {
            let chosen = LeastTokens.choose(&candidates, turn).expect("one");
            candidates[chosen].tokens_in_flight += 100;
        }
        assert_eq!(candidates, [with_tokens(1_000); 4]);
    }
}
