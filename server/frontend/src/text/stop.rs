//! Stop strings across token boundaries.

use std::sync::Arc;

use super::Piece;

/// Finds the stop string that is complete first, and holds text back only as far as it could still become one.
pub(crate) struct StopMatcher {
    stops: Arc<[String]>,
    /// Text that could be the beginning of a stop string.
    held: String,
}

impl StopMatcher {
    /// `stops` are not empty strings.
    pub(crate) fn new(stops: Arc<[String]>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next text: what is final of it. After a stop nothing more may come.
    pub(crate) fn push(&mut self, text: &str) -> Piece {
        if self.stops.is_empty() {
            return Piece {
                text: text.to_owned(),
                stopped: false,
            };
        }
        if text.is_empty() {
            return Piece::default();
        }
        self.held.push_str(text);
        if let Some(start) = self.first_stop() {
            self.held.truncate(start);
            return Piece {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let keep = self.possible_start();
        let rest = self.held.split_off(keep);
        Piece {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// No more text comes: what was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string begins that is complete first; of several that end there, the longest. So the result
    /// does not depend on how the text was cut into pieces.
    fn first_stop(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop.as_str())
                    .map(|start| (start + stop.len(), start))
            })
            .min()
            .map(|(_, start)| start)
    }

    /// Where the longest end of the held text begins that a stop string begins with.
    fn possible_start(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        (earliest..self.held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[start..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut texts = Vec::new();
        for piece in pieces {
            let piece = matcher.push(piece);
            texts.push(piece.text);
            if piece.stopped {
                return (texts, true);
            }
        }
        texts.push(matcher.finish());
        (texts, false)
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_found_and_not_told() {
        assert_eq!(
            run(&["END"], &["a E", "N", "D b"]),
            (vec!["a ".into(), "".into(), "".into()], true)
        );
    }

    #[test]
    fn text_is_held_back_only_while_it_could_become_a_stop_string() {
        let (texts, stopped) = run(&["END"], &["a EN", "T", "E"]);
        assert_eq!(
            (texts, stopped),
            (vec!["a ".into(), "ENT".into(), "".into(), "E".into()], false)
        );
    }

    #[test]
    fn the_stop_string_that_is_complete_first_wins() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), (vec!["xa".into()], true));
        assert_eq!(run(&["c", "abc"], &["xabc"]), (vec!["x".into()], true));
    }

    #[test]
    fn a_stop_string_may_overlap_its_own_beginning() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
    }

    #[test]
    fn characters_are_never_cut() {
        assert_eq!(run(&["é!"], &["aé", "x山"]).0.concat(), "aéx山");
    }
}
