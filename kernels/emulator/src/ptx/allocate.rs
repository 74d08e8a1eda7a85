//! Places for registers: those of a text are thousands, of which few are in use at a time.

use super::{
    op::{Instruction, Op, Pred, Reg, Wide},
    operands::{CONSTANT, Names},
    program::Program,
    visit::{self, Visitor},
};

/// Gives each register of the program's instructions a place, shared by registers that are never in use at once.
pub(super) fn registers(program: &mut Program, names: Names<'_>) {
    let counts = [names.words, names.wides, names.preds];
    let mut ranges = Ranges::of(&mut program.code, counts);
    let mut places = ranges.places();
    for instruction in &mut program.code {
        visit::registers(instruction, &mut places);
    }
    [program.words, program.wides, program.preds] = places.used;
    program.word_constants = names.word_constants;
    program.wide_constants = names.wide_constants;
}

/// Numbers registers of all kinds in a row.
#[derive(Clone, Copy)]
struct Numbers {
    wides: usize,
    preds: usize,
    all: usize,
}

impl Numbers {
    fn new([words, wides, preds]: [u32; 3]) -> Self {
        let (words, wides, preds) = (words as usize, wides as usize, preds as usize);
        Self {
            wides: words,
            preds: words + wides,
            all: words + wides + preds,
        }
    }
}

/// Collects the registers of an instruction.
struct Seen {
    numbers: Numbers,
    read: Vec<usize>,
    written: Vec<usize>,
}

impl Seen {
    fn add(&mut self, number: u32, first: usize, written: bool) {
        if number & CONSTANT == 0 {
            let list = if written {
                &mut self.written
            } else {
                &mut self.read
            };
            list.push(first + number as usize);
        }
    }

    fn look(&mut self, instruction: &mut Instruction) {
        self.read.clear();
        self.written.clear();
        visit::registers(instruction, self);
    }
}

impl Visitor for Seen {
    fn word(&mut self, reg: &mut Reg, written: bool) {
        self.add(reg.0, 0, written);
    }

    fn wide(&mut self, wide: &mut Wide, written: bool) {
        self.add(wide.0, self.numbers.wides, written);
    }

    fn pred(&mut self, pred: &mut Pred, written: bool) {
        self.add(pred.0, self.numbers.preds, written);
    }
}

/// Sets of registers.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn members(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    64 * i + bit
                })
            })
        })
    }
}

/// Instructions that run one after the other.
struct Block {
    first: usize,
    end: usize,
    next: Vec<usize>,
    /// Registers read before they are written, and those written for certain.
    read: Set,
    written: Set,
    live: Set,
}

/// From where to where, in the order of the text, each register is in use.
struct Ranges {
    numbers: Numbers,
    ranges: Vec<(u32, u32)>,
}

impl Ranges {
    fn of(code: &mut [Instruction], counts: [u32; 3]) -> Self {
        let numbers = Numbers::new(counts);
        let mut seen = Seen {
            numbers,
            read: Vec::new(),
            written: Vec::new(),
        };
        let mut all = Self {
            numbers,
            ranges: vec![(u32::MAX, 0); numbers.all],
        };
        let mut blocks = blocks(code, numbers.all);
        for block in &mut blocks {
            let instructions = code.iter_mut().enumerate().take(block.end);
            for (at, instruction) in instructions.skip(block.first) {
                seen.look(instruction);
                for &i in &seen.read {
                    all.cover(i, at);
                    if !block.written.has(i) {
                        block.read.insert(i);
                    }
                }
                for &i in &seen.written {
                    all.cover(i, at);
                    if instruction.guard.is_none() {
                        block.written.insert(i);
                    }
                }
            }
            block.live = block.read.clone();
        }
        while flow_back(&mut blocks) {}
        for i in 0..blocks.len() {
            let (first, end) = (blocks[i].first, blocks[i].end);
            for register in blocks[i].live.members() {
                all.cover(register, first);
            }
            for &next in &blocks[i].next {
                for register in blocks[next].live.members() {
                    all.cover(register, end - 1);
                }
            }
        }
        all
    }

    fn cover(&mut self, register: usize, at: usize) {
        let range = &mut self.ranges[register];
        *range = (range.0.min(at as u32), range.1.max(at as u32));
    }

    fn places(&mut self) -> Places {
        let Numbers { wides, preds, all } = self.numbers;
        let kinds = [0..wides, wides..preds, preds..all];
        let (mut places, mut used) = (vec![0; all], [0; 3]);
        for (kind, used) in kinds.into_iter().zip(&mut used) {
            let mut order: Vec<usize> = kind.filter(|&i| self.ranges[i].0 != u32::MAX).collect();
            order.sort_unstable_by_key(|&i| self.ranges[i].0);
            let mut free: Vec<u32> = Vec::new();
            // Ends and places, the first end on top.
            let mut busy = std::collections::BinaryHeap::new();
            for i in order {
                let (first, end) = self.ranges[i];
                while let Some(&std::cmp::Reverse((end, place))) = busy.peek()
                    && end < first
                {
                    busy.pop();
                    free.push(place);
                }
                let place = free.pop().unwrap_or_else(|| {
                    *used += 1;
                    *used as u32 - 1
                });
                places[i] = place;
                busy.push(std::cmp::Reverse((end, place)));
            }
        }
        Places {
            numbers: self.numbers,
            places,
            used,
        }
    }
}

fn blocks(code: &[Instruction], registers: usize) -> Vec<Block> {
    let mut first = vec![false; code.len() + 1];
    first[0] = true;
    for (i, instruction) in code.iter().enumerate() {
        match instruction.op {
            Op::Branch(target) => {
                first[target as usize] = true;
                first[i + 1] = true;
            }
            Op::Exit => first[i + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&i| first[i]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start < at);
    let blocks = starts.iter().enumerate().map(|(i, &first)| {
        let end = starts.get(i + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let mut next = Vec::new();
        if let Op::Branch(target) = last.op {
            next.push(block_at(target as usize));
        }
        let ends = matches!(last.op, Op::Branch(_) | Op::Exit) && last.guard.is_none();
        if !ends && end < code.len() {
            next.push(i + 1);
        }
        Block {
            first,
            end,
            next,
            read: Set::new(registers),
            written: Set::new(registers),
            live: Set::new(0),
        }
    });
    blocks.collect()
}

/// Lets blocks know what those after them read; false once all do.
fn flow_back(blocks: &mut [Block]) -> bool {
    let mut changed = false;
    for i in (0..blocks.len()).rev() {
        for next in blocks[i].next.clone() {
            let mut live = std::mem::take(&mut blocks[i].live.0);
            let block = &blocks[i];
            for (k, word) in live.iter_mut().enumerate() {
                let after = if next == i { *word } else { blocks[next].live.0[k] };
                let new = *word | (after & !block.written.0[k]);
                changed |= new != *word;
                *word = new;
            }
            blocks[i].live.0 = live;
        }
    }
    changed
}

/// Where registers are.
struct Places {
    numbers: Numbers,
    places: Vec<u32>,
    used: [usize; 3],
}

impl Places {
    fn place(&self, number: u32, first: usize, constants: usize) -> u32 {
        if number & CONSTANT != 0 {
            (number & !CONSTANT) + constants as u32
        } else {
            self.places[first + number as usize]
        }
    }
}

impl Visitor for Places {
    fn word(&mut self, reg: &mut Reg, _: bool) {
        reg.0 = self.place(reg.0, 0, self.used[0]);
    }

    fn wide(&mut self, wide: &mut Wide, _: bool) {
        wide.0 = self.place(wide.0, self.numbers.wides, self.used[1]);
    }

    fn pred(&mut self, pred: &mut Pred, _: bool) {
        pred.0 = self.place(pred.0, self.numbers.preds, 0);
    }
}
