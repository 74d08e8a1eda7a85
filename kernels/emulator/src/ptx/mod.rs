//! PTX: text to instructions.

mod allocate;
mod arithmetic;
mod decode;
mod later;
mod lex;
mod memory;
mod op;
mod operands;
mod operations;
mod program;
mod variables;
mod visit;

use std::sync::{Arc, OnceLock};

use lex::{Lexer, Token};
pub(crate) use op::*;
pub(crate) use operands::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
pub(crate) use operations::*;
pub(crate) use program::Program;
use program::Variable;

/// A module's kernels.
pub(crate) struct Module {
    pub(crate) kernels: Vec<Arc<Kernel>>,
}

/// A parameter's place among a kernel's arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

/// An entry of a module.
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    source: Source,
    /// Read when the kernel is first run: a process runs few of all kernels.
    program: OnceLock<Result<Program, ParseError>>,
}

/// What of a module's text is needed to read a kernel's instructions.
struct Source {
    body: String,
    line: usize,
    parameter_names: Vec<String>,
    /// Variables of the module in shared memory.
    shared: Arc<Vec<Variable>>,
}

/// What is not understood in a PTX text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("PTX, line {line}: {what}")]
pub(crate) struct ParseError {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Kernel {
    /// The kernel's instructions.
    ///
    /// # Errors
    /// An instruction that is not known.
    pub(crate) fn program(&self) -> Result<&Program, ParseError> {
        let program = self.program.get_or_init(|| {
            let source = &self.source;
            decode::program(&decode::Context {
                body: &source.body,
                line: source.line,
                parameters: &self.parameters,
                parameter_names: &source.parameter_names,
                shared: &source.shared,
            })
        });
        program.as_ref().map_err(Clone::clone)
    }
}

impl Module {
    /// Reads a PTX text (version 9.0, one entry after the other, no functions).
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(text, 1);
        let mut shared = Vec::new();
        let mut entries = Vec::new();
        loop {
            let error = |lexer: &Lexer<'_>, what: String| {
                let line = lexer.line();
                Err(ParseError { line, what })
            };
            match lexer.next() {
                Token::End => break,
                Token::Word(".version" | ".address_size") => drop(lexer.next()),
                Token::Word(".target") => {
                    lexer.next();
                    while lexer.peek() == Token::Mark(b',') {
                        lexer.next();
                        lexer.next();
                    }
                }
                Token::Word(".visible" | ".weak" | ".extern") | Token::Mark(b';') => {}
                Token::Word(".shared") => shared.push(variable(&mut lexer)?),
                Token::Word(".entry") => entries.push(entry(&mut lexer)?),
                other => return error(&lexer, format!("{other:?} between entries")),
            }
        }
        let shared = Arc::new(shared);
        let kernels = entries.into_iter().map(|entry| {
            let source = Source {
                body: entry.body.to_owned(),
                line: entry.line,
                parameter_names: entry.names,
                shared: Arc::clone(&shared),
            };
            Arc::new(Kernel {
                name: entry.name.to_owned(),
                parameters: entry.parameters,
                source,
                program: OnceLock::new(),
            })
        });
        Ok(Self {
            kernels: kernels.collect(),
        })
    }
}

/// An entry as it stands in the text.
struct Entry<'a> {
    name: &'a str,
    parameters: Vec<Parameter>,
    names: Vec<String>,
    body: &'a str,
    line: usize,
}

/// Behind `.entry`.
fn entry<'a>(lexer: &mut Lexer<'a>) -> Result<Entry<'a>, ParseError> {
    let name = word(lexer)?;
    let mut entry = Entry {
        name,
        parameters: Vec::new(),
        names: Vec::new(),
        body: "",
        line: 0,
    };
    let mut end = 0;
    loop {
        match lexer.next() {
            Token::Word(".param") => {
                let parameter = variable(lexer)?;
                let offset = usize::next_multiple_of(end, parameter.alignment);
                end = offset + parameter.bytes;
                entry.parameters.push(Parameter {
                    offset,
                    size: parameter.bytes,
                });
                entry.names.push(parameter.name);
            }
            Token::Mark(b'{') => break,
            Token::End => {
                return Err(ParseError {
                    line: lexer.line(),
                    what: format!("no body of {name}"),
                });
            }
            // Limits for the compiler, and the marks around parameters.
            _ => {}
        }
    }
    entry.line = lexer.line();
    entry.body = lexer.braced();
    Ok(entry)
}

fn word<'a>(lexer: &mut Lexer<'a>) -> Result<&'a str, ParseError> {
    match lexer.next() {
        Token::Word(word) => Ok(word),
        other => Err(ParseError {
            line: lexer.line(),
            what: format!("{other:?} instead of a word"),
        }),
    }
}

/// Behind the space of a variable or parameter: `.align 8 .b8 name[128]`.
fn variable(lexer: &mut Lexer<'_>) -> Result<Variable, ParseError> {
    let mut alignment = None;
    let mut size = 1;
    let error = |lexer: &Lexer<'_>, what: &str| ParseError {
        line: lexer.line(),
        what: what.to_owned(),
    };
    let number = |lexer: &mut Lexer<'_>| -> Result<usize, ParseError> {
        let number = word(lexer)?.parse();
        number.map_err(|_| error(lexer, "no number in a variable's declaration"))
    };
    let name = loop {
        match word(lexer)? {
            ".align" => alignment = Some(number(lexer)?),
            ".ptr" | ".global" | ".shared" => {}
            ".b8" | ".u8" | ".s8" => size = 1,
            ".b16" | ".u16" | ".s16" | ".f16" => size = 2,
            ".b32" | ".u32" | ".s32" | ".f32" => size = 4,
            ".b64" | ".u64" | ".s64" | ".f64" => size = 8,
            name if !name.starts_with('.') => break name.to_owned(),
            _ => return Err(error(lexer, "a variable of a type that is not known")),
        }
    };
    let (mut len, mut dynamic) = (1, false);
    if lexer.peek() == Token::Mark(b'[') {
        lexer.next();
        dynamic = lexer.peek() == Token::Mark(b']');
        len = if dynamic { 0 } else { number(lexer)? };
        lexer.next();
    }
    let alignment = alignment.unwrap_or(size).max(1);
    if !alignment.is_power_of_two() || len > 1 << 24 {
        return Err(error(lexer, "a variable's size or alignment"));
    }
    Ok(Variable {
        name,
        alignment,
        bytes: size * len,
        dynamic,
    })
}
