//! Operands: as they are written, and as registers.

use std::collections::HashMap;

use super::{
    ParseError,
    lex::{Lexer, Token},
    op::{Address, Base, Pred, Reg, Wide},
};

/// Marks numbers of registers that are constants, until registers have places.
pub(super) const CONSTANT: u32 = 1 << 31;
/// Where generic addresses of parameters begin.
pub(crate) const PARAM_WINDOW: u64 = 3 << 60;
/// Where generic addresses of local memory begin.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 60;
/// Where generic addresses of shared memory begin.
pub(crate) const SHARED_WINDOW: u64 = 1 << 60;

/// An operand as it is written.
#[derive(Clone, Debug)]
pub(super) enum Operand<'a> {
    /// A register, a label, a variable.
    Name(&'a str),
    Integer(i64),
    Float(u32),
    Double(u64),
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`, perhaps with a tile's coordinates.
    Memory(Box<Operand<'a>>, i64, Vec<Operand<'a>>),
    /// `register|predicate`.
    Pair(&'a str, &'a str),
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Reg(Reg),
    Wide(Wide),
    Pred(Pred),
    /// A variable's address.
    Value(u64),
}

/// Registers of one declaration: `%r<10>`.
struct Series<'a> {
    prefix: &'a str,
    first: Name,
    len: u32,
}

/// Names declared between two braces.
#[derive(Default)]
struct Scope<'a> {
    names: Vec<(&'a str, Name)>,
    series: Vec<Series<'a>>,
}

/// Names and constants of a kernel.
#[derive(Default)]
pub(super) struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    /// How many registers of each kind there are so far.
    pub(super) words: u32,
    pub(super) wides: u32,
    pub(super) preds: u32,
    pub(super) word_constants: Vec<u32>,
    pub(super) wide_constants: Vec<u64>,
    word_places: HashMap<u32, Reg>,
    wide_places: HashMap<u64, Wide>,
}

/// Why an operand is not what an instruction needs; the caller knows the line.
pub(super) type Wrong = String;

impl<'a> Operand<'a> {
    /// Reads an operand.
    pub(super) fn read(lexer: &mut Lexer<'a>) -> Result<Self, ParseError> {
        let line = lexer.line();
        let error = |what: String| ParseError { line, what };
        match lexer.next() {
            Token::Word(word) if word.starts_with(|first: char| first.is_ascii_digit()) => {
                number(word).ok_or_else(|| error(format!("number {word}")))
            }
            Token::Word(word) => {
                if lexer.peek() != Token::Mark(b'|') {
                    return Ok(Self::Name(word));
                }
                lexer.next();
                match lexer.next() {
                    Token::Word(second) => Ok(Self::Pair(word, second)),
                    other => Err(error(format!("{other:?} after |"))),
                }
            }
            Token::Mark(b'-') => match Self::read(lexer)? {
                Self::Integer(number) => Ok(Self::Integer(number.wrapping_neg())),
                other => Err(error(format!("- before {other:?}"))),
            },
            Token::Mark(b'{') => Ok(Self::Vector(Self::list(lexer, b'}')?)),
            Token::Mark(b'[') => {
                let base = Box::new(Self::read(lexer)?);
                let mut offset = 0;
                if lexer.peek() == Token::Mark(b'+') {
                    lexer.next();
                    match Self::read(lexer)? {
                        Self::Integer(number) => offset = number,
                        other => return Err(error(format!("offset {other:?}"))),
                    }
                }
                let rest = Self::list(lexer, b']')?;
                Ok(Self::Memory(base, offset, rest))
            }
            other => Err(error(format!("operand {other:?}"))),
        }
    }

    /// Operands until `end`, the commas between read over.
    fn list(lexer: &mut Lexer<'a>, end: u8) -> Result<Vec<Self>, ParseError> {
        let mut list = Vec::new();
        loop {
            match lexer.peek() {
                Token::Mark(mark) if mark == end => {
                    lexer.next();
                    return Ok(list);
                }
                Token::Mark(b',') => drop(lexer.next()),
                _ => list.push(Self::read(lexer)?),
            }
        }
    }
}

fn number(word: &str) -> Option<Operand<'static>> {
    if let Some(digits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
        return u32::from_str_radix(digits, 16).ok().map(Operand::Float);
    }
    if let Some(digits) = word.strip_prefix("0d").or(word.strip_prefix("0D")) {
        return u64::from_str_radix(digits, 16).ok().map(Operand::Double);
    }
    let word = word.strip_suffix('U').unwrap_or(word);
    let number = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    number.ok().map(|number| Operand::Integer(number as i64))
}

impl<'a> Names<'a> {
    pub(super) fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    pub(super) fn new_reg(&mut self) -> Reg {
        self.words += 1;
        Reg(self.words - 1)
    }

    pub(super) fn new_wide(&mut self) -> Wide {
        self.wides += 1;
        Wide(self.wides - 1)
    }

    pub(super) fn new_pred(&mut self) -> Pred {
        self.preds += 1;
        Pred(self.preds - 1)
    }

    /// Declares `len` registers of a type, `None`: one, of just this name.
    pub(super) fn declare(&mut self, kind: &str, name: &'a str, len: Option<u32>) -> Result<(), Wrong> {
        let count = len.unwrap_or(1);
        let first = match kind {
            ".pred" => {
                self.preds += count;
                Name::Pred(Pred(self.preds - count))
            }
            ".b16" | ".u16" | ".s16" | ".f16" | ".b32" | ".u32" | ".s32" | ".f32" => {
                self.words += count;
                Name::Reg(Reg(self.words - count))
            }
            ".b64" | ".u64" | ".s64" | ".f64" => {
                self.wides += count;
                Name::Wide(Wide(self.wides - count))
            }
            _ => return Err(format!("registers of type {kind}")),
        };
        let scope = self.scopes.last_mut().ok_or("a declaration outside of braces")?;
        match len {
            None => scope.names.push((name, first)),
            Some(len) => scope.series.push(Series {
                prefix: name,
                first,
                len,
            }),
        }
        Ok(())
    }

    pub(super) fn define(&mut self, name: &'a str, value: u64) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.push((name, Name::Value(value)));
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Name> {
        let prefix = name.trim_end_matches(|digit: char| digit.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            let named = scope.names.iter().rev().find(|(other, _)| *other == name);
            named.map(|&(_, name)| name).or_else(|| {
                let number = number?;
                let series = scope.series.iter();
                let series = series.rev().find(|series| series.prefix == prefix)?;
                (number < series.len).then_some(match series.first {
                    Name::Reg(Reg(first)) => Name::Reg(Reg(first + number)),
                    Name::Wide(Wide(first)) => Name::Wide(Wide(first + number)),
                    Name::Pred(Pred(first)) => Name::Pred(Pred(first + number)),
                    Name::Value(_) => return None,
                })
            })
        })
    }

    pub(super) fn word_constant(&mut self, value: u32) -> Reg {
        let constants = &mut self.word_constants;
        *self.word_places.entry(value).or_insert_with(|| {
            constants.push(value);
            Reg(CONSTANT | (constants.len() as u32 - 1))
        })
    }

    pub(super) fn wide_constant(&mut self, value: u64) -> Wide {
        let constants = &mut self.wide_constants;
        *self.wide_places.entry(value).or_insert_with(|| {
            constants.push(value);
            Wide(CONSTANT | (constants.len() as u32 - 1))
        })
    }

    /// A word that is read.
    pub(super) fn word(&mut self, operand: &Operand<'a>) -> Result<Reg, Wrong> {
        match *operand {
            Operand::Integer(number) => Ok(self.word_constant(number as u32)),
            Operand::Float(bits) => Ok(self.word_constant(bits)),
            Operand::Name(name) => match self.find(name) {
                Some(Name::Reg(reg)) => Ok(reg),
                Some(Name::Value(value)) => Ok(self.word_constant(value as u32)),
                _ => Err(format!("{name} as a 32-bit operand")),
            },
            _ => Err(format!("{operand:?} as a 32-bit operand")),
        }
    }

    /// A word that is written.
    pub(super) fn result_word(&mut self, operand: &Operand<'a>) -> Result<Reg, Wrong> {
        match *operand {
            Operand::Name("_") => Ok(self.new_reg()),
            Operand::Name(name) => match self.find(name) {
                Some(Name::Reg(reg)) => Ok(reg),
                _ => Err(format!("{name} as a 32-bit result")),
            },
            _ => Err(format!("{operand:?} as a 32-bit result")),
        }
    }

    /// 64 bits that are read.
    pub(super) fn wide(&mut self, operand: &Operand<'a>) -> Result<Wide, Wrong> {
        match *operand {
            Operand::Integer(number) => Ok(self.wide_constant(number as u64)),
            Operand::Double(bits) => Ok(self.wide_constant(bits)),
            Operand::Name(name) => match self.find(name) {
                Some(Name::Wide(wide)) => Ok(wide),
                Some(Name::Value(value)) => Ok(self.wide_constant(value)),
                _ => Err(format!("{name} as a 64-bit operand")),
            },
            _ => Err(format!("{operand:?} as a 64-bit operand")),
        }
    }

    /// 64 bits that are written.
    pub(super) fn result_wide(&mut self, operand: &Operand<'a>) -> Result<Wide, Wrong> {
        match *operand {
            Operand::Name("_") => Ok(self.new_wide()),
            Operand::Name(name) => match self.find(name) {
                Some(Name::Wide(wide)) => Ok(wide),
                _ => Err(format!("{name} as a 64-bit result")),
            },
            _ => Err(format!("{operand:?} as a 64-bit result")),
        }
    }

    pub(super) fn pred(&mut self, operand: &Operand<'a>) -> Result<Pred, Wrong> {
        match *operand {
            Operand::Name("_") => Ok(self.new_pred()),
            Operand::Name(name) => self.pred_named(name),
            _ => Err(format!("{operand:?} as a predicate")),
        }
    }

    pub(super) fn pred_named(&self, name: &str) -> Result<Pred, Wrong> {
        match self.find(name) {
            Some(Name::Pred(pred)) => Ok(pred),
            _ => Err(format!("{name} as a predicate")),
        }
    }

    /// `[base+offset]`.
    pub(super) fn address(&self, operand: &Operand<'a>) -> Result<Address, Wrong> {
        let Operand::Memory(base, offset, _) = operand else {
            return Err(format!("{operand:?} as an address"));
        };
        let (base, first) = match **base {
            Operand::Integer(number) => (Base::None, number),
            Operand::Name(name) => match self.find(name) {
                Some(Name::Reg(reg)) => (Base::Word(reg), 0),
                Some(Name::Wide(wide)) => (Base::Wide(wide), 0),
                Some(Name::Value(value)) => (Base::None, value as i64),
                _ => return Err(format!("address of {name}")),
            },
            _ => return Err(format!("address of {base:?}")),
        };
        let offset = first + offset;
        Ok(Address { base, offset })
    }
}
