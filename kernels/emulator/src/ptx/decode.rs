//! A kernel's text to instructions.

use std::collections::HashMap;

use super::{
    Parameter, ParseError, allocate, arithmetic,
    lex::{Lexer, Token},
    memory,
    op::{Guard, Instruction, Op, Reg},
    operands::{Name, Names, Operand, PARAM_WINDOW, Wrong},
    operations::{Extend, Logic, Reduce, Word},
    program::{Program, Variable},
    variables::Variables,
};

/// A kernel's body and what it may name.
pub(super) struct Context<'a> {
    pub(super) body: &'a str,
    pub(super) line: usize,
    pub(super) parameters: &'a [Parameter],
    pub(super) parameter_names: &'a [String],
    pub(super) shared: &'a [Variable],
}

/// An instruction as it is written.
pub(super) struct Statement<'a> {
    pub(super) opcode: &'a str,
    pub(super) operands: Vec<Operand<'a>>,
}

/// Instructions and names so far.
#[derive(Default)]
pub(super) struct Decoder<'a> {
    pub(super) names: Names<'a>,
    code: Vec<Instruction>,
    guard: Option<Guard>,
    line: usize,
    /// The scopes that are open, and the one around each scope there was.
    scopes: Vec<usize>,
    parents: Vec<usize>,
    labels: HashMap<(usize, &'a str), u32>,
    /// Branches whose labels are looked up at the end, and their scopes.
    branches: Vec<(usize, usize, &'a str)>,
}

/// Reads a kernel's body.
pub(super) fn program(context: &Context<'_>) -> Result<Program, ParseError> {
    let memory = Variables::of(context)?;
    let mut decoder = Decoder::default();
    decoder.open();
    for (name, parameter) in context.parameter_names.iter().zip(context.parameters) {
        decoder.names.define(name, PARAM_WINDOW | parameter.offset as u64);
    }
    for (variable, value) in memory.shared.iter().chain(&memory.local) {
        decoder.names.define(&variable.name, *value);
    }
    decoder.statements(&mut Lexer::new(context.body, context.line))?;
    decoder.line = context.line;
    decoder.emit(Op::Exit);
    decoder.resolve_labels()?;
    let mut program = Program {
        code: decoder.code,
        shared_bytes: memory.shared_bytes,
        local_bytes: memory.local_bytes,
        ..Program::default()
    };
    allocate::registers(&mut program, decoder.names);
    Ok(program)
}

impl<'a> Decoder<'a> {
    pub(super) fn emit(&mut self, op: Op) {
        self.code.push(Instruction {
            guard: self.guard,
            op,
            line: self.line as u32,
        });
    }

    fn open(&mut self) {
        self.names.open();
        self.parents.push(self.scopes.last().copied().unwrap_or(0));
        self.scopes.push(self.parents.len() - 1);
    }

    fn scope(&self) -> usize {
        self.scopes.last().copied().unwrap_or(0)
    }

    fn statements(&mut self, lexer: &mut Lexer<'a>) -> Result<(), ParseError> {
        loop {
            let token = lexer.next();
            self.line = lexer.line();
            match token {
                Token::End => return Ok(()),
                Token::Mark(b'{') => self.open(),
                Token::Mark(b'}') => {
                    self.names.close();
                    self.scopes.pop();
                }
                Token::Mark(b';') => {}
                Token::Word(".reg") => {
                    let declared = self.declare(lexer);
                    declared.map_err(|what| self.error(what))?;
                }
                Token::Word(".shared" | ".local" | ".pragma") => lexer.skip_behind(b';'),
                Token::Mark(b'@') => {
                    let negated = lexer.peek() == Token::Mark(b'!');
                    if negated {
                        lexer.next();
                    }
                    let Token::Word(name) = lexer.next() else {
                        return Err(self.error("@ without a predicate".to_owned()));
                    };
                    let pred = self.names.pred_named(name).map_err(|what| self.error(what))?;
                    self.guard = Some(Guard { pred, negated });
                }
                Token::Word(word) if lexer.peek() == Token::Mark(b':') => {
                    lexer.next();
                    let at = self.code.len() as u32;
                    self.labels.insert((self.scope(), word), at);
                }
                Token::Word(opcode) => {
                    let operands = operands(lexer)?;
                    let statement = Statement { opcode, operands };
                    let read = self.instruction(&statement);
                    read.map_err(|what| self.error(format!("{opcode}: {what}")))?;
                    self.guard = None;
                }
                other => return Err(self.error(format!("{other:?} at the beginning of a statement"))),
            }
        }
    }

    fn error(&self, what: String) -> ParseError {
        ParseError {
            line: self.line,
            what,
        }
    }

    /// Behind `.reg`.
    fn declare(&mut self, lexer: &mut Lexer<'a>) -> Result<(), Wrong> {
        let Token::Word(kind) = lexer.next() else {
            return Err("a declaration without a type".to_owned());
        };
        loop {
            let Token::Word(name) = lexer.next() else {
                return Err("a declaration without a name".to_owned());
            };
            let mut len = None;
            if lexer.peek() == Token::Mark(b'<') {
                lexer.next();
                if let Token::Word(number) = lexer.next() {
                    len = number.parse().ok().filter(|&len| len < 1 << 24);
                }
                lexer.next();
            }
            self.names.declare(kind, name, len)?;
            if lexer.next() != Token::Mark(b',') {
                return Ok(());
            }
        }
    }

    fn resolve_labels(&mut self) -> Result<(), ParseError> {
        for &(at, mut scope, label) in &self.branches {
            let target = loop {
                if let Some(&target) = self.labels.get(&(scope, label)) {
                    break target;
                }
                if scope == 0 {
                    let line = self.code[at].line as usize;
                    let what = format!("bra: no label {label}");
                    return Err(ParseError { line, what });
                }
                scope = self.parents[scope];
            };
            self.code[at].op = Op::Branch(target);
        }
        Ok(())
    }

    fn instruction(&mut self, statement: &Statement<'a>) -> Result<(), Wrong> {
        match statement.opcode {
            "bra" | "bra.uni" => {
                let [Operand::Name(label)] = statement.operands[..] else {
                    return Err("no label".to_owned());
                };
                self.branches.push((self.code.len(), self.scope(), label));
                self.emit(Op::Nothing);
                Ok(())
            }
            "ret" | "exit" => {
                self.emit(Op::Exit);
                Ok(())
            }
            _ => {
                if self.arithmetic(statement)? || memory::instruction(self, statement)? {
                    return Ok(());
                }
                Err("not known, or not with these operands".to_owned())
            }
        }
    }

    /// False: another kind of instruction.
    fn arithmetic(&mut self, statement: &Statement<'a>) -> Result<bool, Wrong> {
        let (opcode, operands) = (statement.opcode, &statement.operands[..]);
        if opcode.starts_with("mov.") && self.moved(operands)? {
            return Ok(true);
        }
        let names = &mut self.names;
        let op = if let Some((op, count)) = arithmetic::word(opcode) {
            let (to, from) = split(operands, count)?;
            let mut registers = [names.word(&from[0])?; 3];
            for (register, operand) in registers.iter_mut().zip(from) {
                *register = names.word(operand)?;
            }
            Op::Word(op, names.result_word(to)?, registers)
        } else if let Some((op, count)) = arithmetic::long(opcode) {
            let (to, from) = split(operands, count)?;
            let mut registers = [names.wide(&from[0])?; 3];
            for (register, operand) in registers.iter_mut().zip(from) {
                *register = names.wide(operand)?;
            }
            Op::Long(op, names.result_wide(to)?, registers)
        } else if let Some(op) = arithmetic::shift(opcode) {
            let (to, from) = split(operands, 2)?;
            Op::Shift(
                op,
                names.result_wide(to)?,
                names.wide(&from[0])?,
                names.word(&from[1])?,
            )
        } else if let Some((op, count)) = arithmetic::extend(opcode) {
            let (to, from) = split(operands, count)?;
            let to = names.result_wide(to)?;
            // A word may be the low half of a register.
            let registers = match from {
                [Operand::Name(name)] if let Some(Name::Wide(wide)) = names.find(name) => {
                    let low = names.new_reg();
                    self.emit(Op::Reduce(Reduce::Low, low, wide));
                    [low; 2]
                }
                _ => [names.word(&from[0])?, names.word(&from[count - 1])?],
            };
            Op::Extend(op, to, registers)
        } else if let Some(op) = arithmetic::reduce(opcode) {
            let (to, from) = split(operands, 1)?;
            Op::Reduce(op, names.result_word(to)?, names.wide(&from[0])?)
        } else if let Some((compare, kind, wide)) = arithmetic::compare(opcode) {
            let (to, from) = split(operands, 2)?;
            let to = names.pred(to)?;
            if wide {
                Op::CompareWides(compare, kind, to, [names.wide(&from[0])?, names.wide(&from[1])?])
            } else {
                Op::CompareWords(compare, kind, to, [names.word(&from[0])?, names.word(&from[1])?])
            }
        } else {
            return self.mixed(statement);
        };
        self.emit(op);
        Ok(true)
    }

    /// Instructions with predicates, and those with four operands.
    fn mixed(&mut self, statement: &Statement<'a>) -> Result<bool, Wrong> {
        let names = &mut self.names;
        let operands = &statement.operands[..];
        let op = match (statement.opcode, operands) {
            ("and.pred", [to, a, b]) => {
                Op::Logic(Logic::And, names.pred(to)?, [names.pred(a)?, names.pred(b)?])
            }
            ("or.pred", [to, a, b]) => {
                Op::Logic(Logic::Or, names.pred(to)?, [names.pred(a)?, names.pred(b)?])
            }
            ("xor.pred", [to, a, b]) => {
                Op::Logic(Logic::Xor, names.pred(to)?, [names.pred(a)?, names.pred(b)?])
            }
            ("not.pred", [to, a]) => Op::Logic(Logic::Not, names.pred(to)?, [names.pred(a)?; 2]),
            ("mov.pred", [to, Operand::Integer(value)]) => Op::SetPred(names.pred(to)?, *value != 0),
            ("mov.pred", [to, a]) => Op::Logic(Logic::Mov, names.pred(to)?, [names.pred(a)?; 2]),
            ("selp.b64" | "selp.u64" | "selp.s64" | "selp.f64", [to, a, b, pred]) => {
                let from = [names.wide(a)?, names.wide(b)?];
                Op::SelectWide(names.result_wide(to)?, from, names.pred(pred)?)
            }
            (opcode, [to, a, b, pred]) if opcode.starts_with("selp.") => {
                let from = [names.word(a)?, names.word(b)?];
                Op::Select(names.result_word(to)?, from, names.pred(pred)?)
            }
            ("bfi.b32", [to, a, b, position, len]) => {
                let from = [
                    names.word(a)?,
                    names.word(b)?,
                    names.word(position)?,
                    names.word(len)?,
                ];
                Op::Insert(names.result_word(to)?, from)
            }
            ("bfi.b64", [to, a, b, position, len]) => {
                let from = [names.wide(a)?, names.wide(b)?];
                let place = [names.word(position)?, names.word(len)?];
                Op::InsertWide(names.result_wide(to)?, from, place)
            }
            ("lop3.b32", [to, a, b, c, Operand::Integer(table)]) => {
                let from = [names.word(a)?, names.word(b)?, names.word(c)?];
                Op::Lop3(*table as u8, names.result_word(to)?, from)
            }
            _ => return Ok(false),
        };
        self.emit(op);
        Ok(true)
    }

    /// Moves from special registers, and to or from parts; false if it is another.
    fn moved(&mut self, operands: &[Operand<'a>]) -> Result<bool, Wrong> {
        match operands {
            [to @ Operand::Name(name), Operand::Name(from)] => {
                let Some(special) = arithmetic::special(from) else {
                    return Ok(false);
                };
                let op = match self.names.find(name) {
                    Some(Name::Wide(wide)) => Op::SpecialWide(special, wide),
                    _ => Op::Special(special, self.names.result_word(to)?),
                };
                self.emit(op);
            }
            [to @ Operand::Name(name), Operand::Vector(parts)] => {
                let [low, high] = &parts[..] else {
                    return Err("parts other than two".to_owned());
                };
                let parts = [self.names.word(low)?, self.names.word(high)?];
                let op = match self.names.find(name) {
                    Some(Name::Wide(wide)) => Op::Extend(Extend::Pack, wide, parts),
                    _ => Op::Word(
                        Word::Pack16,
                        self.names.result_word(to)?,
                        [parts[0], parts[1], parts[1]],
                    ),
                };
                self.emit(op);
            }
            [Operand::Vector(parts), from @ Operand::Name(name)] => {
                let [low, high] = &parts[..] else {
                    return Err("parts other than two".to_owned());
                };
                let [low, high] = [self.names.result_word(low)?, self.names.result_word(high)?];
                if let Some(Name::Wide(wide)) = self.names.find(name) {
                    self.emit(Op::Reduce(Reduce::Low, low, wide));
                    self.emit(Op::Reduce(Reduce::High, high, wide));
                } else {
                    let from = self.names.word(from)?;
                    self.halves(low, high, from);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn halves(&mut self, low: Reg, high: Reg, from: Reg) {
        let low = Op::Word(Word::Low16, low, [from; 3]);
        let high = Op::Word(Word::High16, high, [from; 3]);
        self.emit(high);
        self.emit(low);
    }
}

/// Operands until the semicolon.
fn operands<'a>(lexer: &mut Lexer<'a>) -> Result<Vec<Operand<'a>>, ParseError> {
    let mut operands = Vec::new();
    loop {
        match lexer.peek() {
            Token::Mark(b';') => {
                lexer.next();
                return Ok(operands);
            }
            Token::Mark(b',') => drop(lexer.next()),
            _ => operands.push(Operand::read(lexer)?),
        }
    }
}

/// The result and `count` operands.
fn split<'b, 'a>(
    operands: &'b [Operand<'a>],
    count: usize,
) -> Result<(&'b Operand<'a>, &'b [Operand<'a>]), Wrong> {
    match operands {
        [to, from @ ..] if from.len() == count => Ok((to, from)),
        _ => Err(format!("{} operands", operands.len())),
    }
}
