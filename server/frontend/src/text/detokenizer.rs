//! Incremental decoding: the pieces put together are the text of all tokens decoded at once, and no piece ever has
//! a replacement character that a later token would have made a real one.

use std::sync::Arc;

use super::Vocabulary;

/// Tokens without a complete character that are waited for; no character has more bytes, and a token has at
/// least one.
const MAX_PENDING: usize = 8;

/// Decoder of one sequence.
pub(crate) struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    state: State,
}

/// What was taken and not told yet.
enum State {
    /// The first bytes of a character, at most 3.
    Bytes(Vec<u8>),
    /// `pending` decoded after `anchor`, the tokens of the last piece: decoders look at a token's neighbours.
    Windows {
        anchor: Vec<u32>,
        anchor_text: String,
        pending: Vec<u32>,
    },
}

impl Detokenizer {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        let state = match *vocabulary {
            Vocabulary::Bytes(_) => State::Bytes(Vec::new()),
            Vocabulary::Windows { .. } => State::Windows {
                anchor: Vec::new(),
                anchor_text: String::new(),
                pending: Vec::new(),
            },
        };
        Self { vocabulary, state }
    }

    /// Takes one more token: the text that is final now. The cost does not grow with the tokens before.
    pub(crate) fn push(&mut self, id: u32) -> String {
        match (&*self.vocabulary, &mut self.state) {
            (Vocabulary::Bytes(table), State::Bytes(held)) => {
                held.extend_from_slice(table.text(id));
                take_characters(held)
            }
            (Vocabulary::Windows { special, .. }, State::Windows { .. }) if special.contains(&id) => {
                String::new()
            }
            (_, State::Windows { pending, .. }) => {
                pending.push(id);
                self.take_window(false)
            }
            // `new` pairs them.
            (Vocabulary::Windows { .. }, State::Bytes(_)) => String::new(),
        }
    }

    /// No more tokens come: what is left, an incomplete character as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        match &mut self.state {
            State::Bytes(held) => String::from_utf8_lossy(&std::mem::take(held)).into_owned(),
            State::Windows { .. } => self.take_window(true),
        }
    }

    /// The text of the pending tokens, unless it may still change.
    fn take_window(&mut self, last: bool) -> String {
        let (
            Vocabulary::Windows { tokenizer, .. },
            State::Windows {
                anchor,
                anchor_text,
                pending,
            },
        ) = (&*self.vocabulary, &mut self.state)
        else {
            return String::new();
        };
        let window: Vec<u32> = anchor.iter().chain(pending.iter()).copied().collect();
        let text = tokenizer.decode(&window, true).unwrap_or_default();
        let new = text.strip_prefix(anchor_text.as_str()).unwrap_or_default();
        let incomplete = new.ends_with(char::REPLACEMENT_CHARACTER) && pending.len() < MAX_PENDING;
        if new.is_empty() || (incomplete && !last) {
            return String::new();
        }
        let new = new.to_owned();
        *anchor = std::mem::take(pending);
        *anchor_text = tokenizer.decode(anchor, true).unwrap_or_default();
        new
    }
}

/// Takes the complete characters off the front of `held`; bytes that no later byte can complete become U+FFFD, as
/// many as [`String::from_utf8_lossy`] makes.
fn take_characters(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = held.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                held.clear();
                return text;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                let Some(invalid) = error.error_len() else {
                    *held = after.to_vec();
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &after[invalid..];
            }
        }
    }
}
