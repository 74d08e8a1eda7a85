//! From token ids to the text that a client sees.

mod byte_level;
mod detokenizer;
mod stop;
#[cfg(test)]
mod tests;
mod vocabulary;

pub(crate) use detokenizer::Detokenizer;
pub(crate) use stop::StopMatcher;
pub(crate) use vocabulary::Vocabulary;

use std::sync::Arc;

/// Text of one sequence: pieces that are final, ended by the first stop string.
pub(crate) struct TextStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    /// Bytes of text so far, what is held back included.
    seen_bytes: usize,
}

/// What one token added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text that is final.
    pub(crate) text: String,
    /// A stop string came; the text ends here.
    pub(crate) stopped: bool,
}

impl TextStream {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, stops: Arc<[String]>) -> Self {
        Self {
            detokenizer: Detokenizer::new(vocabulary),
            stop: StopMatcher::new(stops),
            seen_bytes: 0,
        }
    }

    /// Takes one more token.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        let text = self.detokenizer.push(id);
        self.seen_bytes += text.len();
        self.stop.push(&text)
    }

    /// No more tokens come: what was held back.
    pub(crate) fn finish(&mut self) -> Piece {
        let text = self.detokenizer.finish();
        self.seen_bytes += text.len();
        let mut piece = self.stop.push(&text);
        if !piece.stopped {
            piece.text.push_str(&self.stop.finish());
        }
        piece
    }

    /// Bytes of text so far, what is held back included.
    pub(crate) fn seen_bytes(&self) -> usize {
        self.seen_bytes
    }
}
