//! Prompts of random token ids: all different, so that the prefix cache does not answer for the engine.

/// Makes the prompts of a run.
#[derive(Clone, Debug)]
pub(crate) struct Prompts {
    /// Decides every id.
    pub(crate) seed: u64,
    /// Ids are from `first_id` to before `end_id`.
    pub(crate) first_id: u32,
    /// One past the largest id.
    pub(crate) end_id: u32,
    /// Tokens of a prompt.
    pub(crate) tokens: usize,
    /// Tokens at the start that all prompts share.
    pub(crate) shared_prefix: usize,
}

impl Prompts {
    /// The prompt of request `index`.
    pub(crate) fn prompt(&self, index: u64) -> Vec<u32> {
        let shared = self.shared_prefix.min(self.tokens);
        // u64::MAX is no request's index.
        let prefix = self.stream(u64::MAX).take(shared);
        prefix
            .chain(self.stream(index).take(self.tokens - shared))
            .collect()
    }

    fn stream(&self, index: u64) -> impl Iterator<Item = u32> {
        let mut state = self.seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let range = u64::from(self.end_id.saturating_sub(self.first_id).max(1));
        let first = self.first_id;
        std::iter::repeat_with(move || first + (split_mix(&mut state) % range) as u32)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPTS: Prompts = Prompts {
        seed: 7,
        first_id: 10,
        end_id: 20,
        tokens: 64,
        shared_prefix: 0,
    };

    #[test]
    fn prompts_differ_from_their_start_and_repeat_with_the_seed() {
        let (a, b) = (PROMPTS.prompt(0), PROMPTS.prompt(1));
        assert_eq!((a.len(), b.len()), (64, 64));
        assert_ne!(a[..16], b[..16], "the first block would be shared");
        assert_eq!(a, PROMPTS.prompt(0));
        assert_ne!(a, Prompts { seed: 8, ..PROMPTS }.prompt(0));
        assert!(a.iter().all(|id| (10..20).contains(id)));
    }

    #[test]
    fn a_shared_prefix_is_the_same_for_all_and_the_rest_is_not() {
        let prompts = Prompts {
            shared_prefix: 32,
            ..PROMPTS
        };
        let (a, b) = (prompts.prompt(0), prompts.prompt(1));
        assert_eq!(a[..32], b[..32]);
        assert_ne!(a[32..], b[32..]);
        assert_eq!(
            Prompts {
                shared_prefix: 100,
                ..PROMPTS
            }
            .prompt(0)
            .len(),
            64
        );
    }
}
