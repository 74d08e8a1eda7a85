//! Variables of a kernel: where they are.

use super::{
    ParseError,
    decode::Context,
    lex::{Lexer, Token},
    operands::LOCAL_WINDOW,
    program::Variable,
    variable,
};

/// Variables of a kernel, with their addresses.
#[derive(Default)]
pub(super) struct Variables {
    pub(super) shared: Vec<(Variable, u64)>,
    pub(super) local: Vec<(Variable, u64)>,
    pub(super) shared_bytes: usize,
    pub(super) local_bytes: usize,
}

impl Variables {
    /// Those that a body declares, and those of the module that it names; the dynamic one behind all others.
    pub(super) fn of(context: &Context<'_>) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(context.body, context.line);
        let mut all = Self::default();
        let mut dynamic = None;
        loop {
            match lexer.next() {
                Token::End => break,
                Token::Word(".shared") => {
                    let variable = variable(&mut lexer)?;
                    all.add_shared(variable);
                }
                Token::Word(".local") => {
                    let variable = variable(&mut lexer)?;
                    let at = all.local_bytes.next_multiple_of(variable.alignment);
                    all.local_bytes = at + variable.bytes;
                    all.local.push((variable, LOCAL_WINDOW | at as u64));
                }
                Token::Word(word) if !word.starts_with(['%', '.', '$']) => {
                    let known = all.shared.iter().any(|(variable, _)| variable.name == word);
                    let found = context.shared.iter().find(|variable| variable.name == word);
                    match found {
                        Some(variable) if variable.dynamic => dynamic = Some(variable.clone()),
                        Some(variable) if !known => all.add_shared(variable.clone()),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        all.shared_bytes = all.shared_bytes.next_multiple_of(16);
        if let Some(dynamic) = dynamic {
            all.add_shared(dynamic);
        }
        Ok(all)
    }

    fn add_shared(&mut self, variable: Variable) {
        let at = self.shared_bytes.next_multiple_of(variable.alignment);
        self.shared_bytes = at + variable.bytes;
        self.shared.push((variable, at as u64));
    }
}
