//! A PTX text as words and marks.

/// What a text consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, a register, an opcode with its parts, a directive or a number without its sign.
    Word(&'a str),
    Mark(u8),
    End,
}

/// Reads one token after the other.
#[derive(Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    /// `line`: the number of the text's first.
    pub(super) fn new(text: &'a str, line: usize) -> Self {
        Self { text, at: 0, line }
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The token after what was read, which stays there.
    pub(super) fn peek(&self) -> Token<'a> {
        self.clone().next()
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        self.skip_space();
        let rest = &self.text.as_bytes()[self.at..];
        let Some(&first) = rest.first() else {
            return Token::End;
        };
        let mut len = 0;
        loop {
            match rest[len..] {
                [
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | b'%' | b'.',
                    ..,
                ] => len += 1,
                // A part of an opcode; a single colon ends a label.
                [b':', b':', ..] => len += 2,
                _ => break,
            }
        }
        if len == 0 {
            self.at += 1;
            return Token::Mark(first);
        }
        let word = &self.text[self.at..self.at + len];
        self.at += len;
        Token::Word(word)
    }

    /// Goes on behind the next `mark`.
    pub(super) fn skip_behind(&mut self, mark: u8) {
        loop {
            match self.next() {
                Token::End => return,
                Token::Mark(found) if found == mark => return,
                _ => {}
            }
        }
    }

    /// Goes on behind the brace that closes the one just read; the text between.
    pub(super) fn braced(&mut self) -> &'a str {
        let first = self.at;
        let mut depth = 1;
        let bytes = self.text.as_bytes();
        while depth > 0 {
            self.skip_space();
            match bytes.get(self.at) {
                Some(b'{') => depth += 1,
                Some(b'}') => depth -= 1,
                Some(_) => {}
                None => return &self.text[first..],
            }
            self.at += 1;
        }
        &self.text[first..self.at - 1]
    }

    fn skip_space(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            match bytes[self.at..] {
                [b'\n', ..] => {
                    self.line += 1;
                    self.at += 1;
                }
                [b' ' | b'\t' | b'\r', ..] => self.at += 1,
                [b'/', b'/', ..] => {
                    let rest = &bytes[self.at..];
                    self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                }
                [b'/', b'*', ..] => {
                    let rest = &self.text[self.at..];
                    let len = rest.find("*/").map_or(rest.len(), |len| len + 2);
                    self.line += rest[..len].matches('\n').count();
                    self.at += len;
                }
                _ => return,
            }
        }
    }
}
