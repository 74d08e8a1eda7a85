//! The registers that an instruction reads and writes.

use super::op::{Add, Address, Base, Instruction, Left, Mbarrier, Op, Pred, Reg, Wide};

/// Is told each register of an instruction, and may put another in its place.
pub(super) trait Visitor {
    fn word(&mut self, reg: &mut Reg, written: bool);
    fn wide(&mut self, wide: &mut Wide, written: bool);
    fn pred(&mut self, pred: &mut Pred, written: bool);
}

pub(super) fn registers(instruction: &mut Instruction, to: &mut impl Visitor) {
    if let Some(guard) = &mut instruction.guard {
        to.pred(&mut guard.pred, false);
    }
    match &mut instruction.op {
        Op::Word(_, d, from) | Op::Lop3(_, d, from) => {
            words(from, to);
            to.word(d, true);
        }
        Op::Long(_, d, from) => {
            wides(from, to);
            to.wide(d, true);
        }
        Op::Shift(_, d, from, by) => {
            to.wide(from, false);
            to.word(by, false);
            to.wide(d, true);
        }
        Op::Extend(_, d, from) => {
            words(from, to);
            to.wide(d, true);
        }
        Op::Reduce(_, d, from) => {
            to.wide(from, false);
            to.word(d, true);
        }
        Op::Insert(d, from) => {
            words(from, to);
            to.word(d, true);
        }
        Op::InsertWide(d, from, place) => {
            wides(from, to);
            words(place, to);
            to.wide(d, true);
        }
        Op::CompareWords(_, _, d, from) => {
            words(from, to);
            to.pred(d, true);
        }
        Op::CompareWides(_, _, d, from) => {
            wides(from, to);
            to.pred(d, true);
        }
        Op::Logic(_, d, from) => {
            preds(from, to);
            to.pred(d, true);
        }
        Op::SetPred(d, _) => to.pred(d, true),
        Op::Select(d, from, pred) => {
            words(from, to);
            to.pred(pred, false);
            to.word(d, true);
        }
        Op::SelectWide(d, from, pred) => {
            wides(from, to);
            to.pred(pred, false);
            to.wide(d, true);
        }
        Op::Special(_, d) => to.word(d, true),
        Op::SpecialWide(_, d) => to.wide(d, true),
        _ => others(&mut instruction.op, to),
    }
}

/// Memory and lanes together.
fn others(op: &mut Op, to: &mut impl Visitor) {
    match op {
        Op::Load {
            items, address: from, ..
        } => {
            address(from, to);
            each_item(items, to, true);
        }
        Op::Store {
            items, address: into, ..
        } => {
            address(into, to);
            each_item(items, to, false);
        }
        Op::StoreAsync {
            items,
            address: into,
            mbarrier,
        } => {
            address(into, to);
            address(mbarrier, to);
            each_item(items, to, false);
        }
        Op::Atomic {
            old,
            address: at,
            value,
            ..
        } => {
            address(at, to);
            to.word(value, false);
            to.word(old, true);
        }
        Op::MapBlock(d, from) | Op::Redux(_, d, from) => {
            words(from, to);
            to.word(d, true);
        }
        Op::BarSync { id, threads } => {
            to.word(id, false);
            if let Some(threads) = threads {
                to.word(threads, false);
            }
        }
        Op::WarpSync(lanes) => to.word(lanes, false),
        Op::Shuffle {
            to: d, valid, from, ..
        } => {
            words(from, to);
            to.word(d, true);
            to.pred(valid, true);
        }
        Op::Vote(_, d, from, lanes) => {
            to.pred(from, false);
            to.word(lanes, false);
            to.pred(d, true);
        }
        Op::Ballot(d, from, lanes) => {
            to.pred(from, false);
            to.word(lanes, false);
            to.word(d, true);
        }
        _ => later(op, to),
    }
}

/// What happens later, and products.
fn later(op: &mut Op, to: &mut impl Visitor) {
    match op {
        Op::Mbarrier(op, at) => {
            address(at, to);
            match op {
                Mbarrier::Init(reg)
                | Mbarrier::Arrive(reg)
                | Mbarrier::ExpectTx(reg)
                | Mbarrier::ArriveExpectTx(reg) => to.word(reg, false),
                Mbarrier::ArriveAfterCopies => {}
            }
        }
        Op::TryWait {
            done,
            mbarrier,
            parity,
        } => {
            address(mbarrier, to);
            to.word(parity, false);
            to.pred(done, true);
        }
        Op::LaneCopy(copy) => {
            address(&mut copy.to, to);
            address(&mut copy.from, to);
            if let Some(read) = &mut copy.read {
                to.word(read, false);
            }
        }
        Op::TileCopy(copy) => {
            address(&mut copy.to, to);
            address(&mut copy.map, to);
            address(&mut copy.mbarrier, to);
            words(&mut copy.at, to);
            if let Some(blocks) = &mut copy.blocks {
                to.word(blocks, false);
            }
        }
        Op::StoreMatrices(at, from) => {
            address(at, to);
            words(from, to);
        }
        Op::Mma(mma) => {
            words(&mut mma.a, to);
            words(&mut mma.b, to);
            words(&mut mma.c, to);
            for d in &mut mma.d {
                to.word(d, true);
            }
        }
        Op::Wgmma(wgmma) => {
            match &mut wgmma.a {
                Left::Registers(a) => words(a, to),
                Left::Shared(a) => to.wide(a, false),
            }
            to.wide(&mut wgmma.b, false);
            if let Add::If(pred) = &mut wgmma.add {
                to.pred(pred, false);
            }
            // Read and written, when the product is waited for: a write of a part, as it were, places it once only.
            for sum in &mut wgmma.sums {
                to.word(sum, false);
            }
        }
        _ => {}
    }
}

fn words(from: &mut [Reg], to: &mut impl Visitor) {
    from.iter_mut().for_each(|reg| to.word(reg, false));
}

fn wides(from: &mut [Wide], to: &mut impl Visitor) {
    from.iter_mut().for_each(|wide| to.wide(wide, false));
}

fn preds(from: &mut [Pred], to: &mut impl Visitor) {
    from.iter_mut().for_each(|pred| to.pred(pred, false));
}

fn address(address: &mut Address, to: &mut impl Visitor) {
    match &mut address.base {
        Base::None => {}
        Base::Word(reg) => to.word(reg, false),
        Base::Wide(wide) => to.wide(wide, false),
    }
}

fn each_item(items: &mut super::op::Items, to: &mut impl Visitor, written: bool) {
    for register in &mut items.registers[..items.count as usize] {
        if items.wide {
            let mut wide = Wide(*register);
            to.wide(&mut wide, written);
            *register = wide.0;
        } else {
            let mut reg = Reg(*register);
            to.word(&mut reg, written);
            *register = reg.0;
        }
    }
}
