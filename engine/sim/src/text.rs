//! Words that stand for an answer: a function of prompt and seed.

use crate::tokenizer::IM_END;

/// Some are longer than one byte a character, so that a server's detokenizer has work to do.
const WORDS: [&str; 16] = [
    "amber", "brook", "cloud", "dune", "ember", "fjörd", "grove", "höhe", "island", "jasmin", "kelp", "łąka",
    "moss", "night", "山", "🌊",
];

/// The endless answer to one prompt, a byte a token.
pub(crate) struct Answer {
    state: u64,
    pending: &'static [u8],
    space: bool,
}

impl Answer {
    /// `seed` is the request's own.
    pub(crate) fn new(prompt: &[u32], seed: u64) -> Self {
        Self {
            state: hash_ids(seed, prompt),
            pending: &[],
            space: false,
        }
    }

    /// The next token of the text.
    pub(crate) fn next_token(&mut self) -> u32 {
        if self.pending.is_empty() {
            if std::mem::replace(&mut self.space, true) {
                self.space = false;
                return u32::from(b' ');
            }
            self.state = mix(self.state);
            self.pending = WORDS[(self.state % WORDS.len() as u64) as usize].as_bytes();
        }
        match self.pending.split_first() {
            Some((&byte, rest)) => {
                self.pending = rest;
                u32::from(byte)
            }
            None => IM_END,
        }
    }

    /// True between two words, where an answer may end without cutting a character.
    pub(crate) fn at_word_end(&self) -> bool {
        self.pending.is_empty()
    }
}

/// A hash of `ids`, chained on `start`.
pub(crate) fn hash_ids(start: u64, ids: &[u32]) -> u64 {
    ids.iter().fold(mix(start ^ 0x517c_c1b7_2722_0a95), |hash, &id| {
        mix(hash ^ u64::from(id))
    })
}

/// The finalizer of splitmix64: every bit of the input reaches every bit of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
