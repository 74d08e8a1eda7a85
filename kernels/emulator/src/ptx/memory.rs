//! Opcodes of memory, and of lanes together.

use super::{
    decode::{Decoder, Statement},
    later,
    op::{Atomic, Items, Op, Redux, Reg, Shuffle, Space, Vote},
    operands::{Name, Operand, Wrong},
};

/// Instructions that need not be emulated: caches, the compiler's limits and orders of memory, which are kept anyway.
const NOTHING: [&str; 10] = [
    "griddepcontrol",
    "setmaxnreg",
    "fence",
    "membar",
    "prefetch",
    "nanosleep",
    "discard",
    "applypriority",
    "createpolicy",
    "pmevent",
];

/// False: not one of these.
pub(super) fn instruction<'a>(decoder: &mut Decoder<'a>, statement: &Statement<'a>) -> Result<bool, Wrong> {
    let opcode = statement.opcode;
    let mut parts = opcode.split('.');
    let first = parts.next().unwrap_or_default();
    let parts: Vec<&str> = parts.collect();
    let operands = &statement.operands[..];
    let op = match first {
        "ld" => load(decoder, &parts, operands)?,
        "st" if parts.first() == Some(&"async") => store_async(decoder, &parts, operands)?,
        "st" => store(decoder, &parts, operands)?,
        "atom" | "red" => atomic(decoder, &parts, operands)?,
        "bar" | "barrier" => barrier(decoder, &parts, operands)?,
        "shfl" | "vote" | "redux" => lanes(decoder, opcode, operands)?,
        "mbarrier" => later::mbarrier(decoder, &parts, operands)?,
        "cp" => later::copy(decoder, &parts, operands)?,
        "wgmma" => later::wgmma(decoder, &parts, operands)?,
        "mma" => later::mma(decoder, opcode, operands)?,
        "mapa" => match operands {
            [to, address, block] => {
                let from = [decoder.names.word(address)?, decoder.names.word(block)?];
                Some(Op::MapBlock(decoder.names.result_word(to)?, from))
            }
            _ => None,
        },
        "stmatrix" => match (opcode, operands) {
            ("stmatrix.sync.aligned.m8n8.x4.shared.b16", [address, Operand::Vector(parts)]) => {
                let registers = words(decoder, parts)?;
                Some(Op::StoreMatrices(decoder.names.address(address)?, registers))
            }
            _ => None,
        },
        _ if NOTHING.contains(&first) => Some(Op::Nothing),
        _ => None,
    };
    let Some(op) = op else {
        return Ok(false);
    };
    decoder.emit(op);
    Ok(true)
}

/// Some number of words that are read.
pub(super) fn words<'a, const N: usize>(
    decoder: &mut Decoder<'a>,
    operands: &[Operand<'a>],
) -> Result<[Reg; N], Wrong> {
    let registers = operands.iter().map(|operand| decoder.names.word(operand));
    let registers = registers.collect::<Result<Vec<_>, _>>()?;
    registers
        .try_into()
        .map_err(|_| format!("{} words", operands.len()))
}

fn space(parts: &[&str]) -> Space {
    let space = parts.iter().find_map(|part| match *part {
        "global" => Some(Space::Global),
        "shared" | "shared::cta" | "shared::cluster" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "param" => Some(Space::Param),
        _ => None,
    });
    space.unwrap_or(Space::Generic)
}

/// What is loaded to, or stored from, an operand.
fn items<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operand: &Operand<'a>,
    loaded: bool,
) -> Result<Items, Wrong> {
    let kind = parts.last().copied().unwrap_or_default();
    let size = match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return Err(format!("type {kind}")),
    };
    let list = match operand {
        Operand::Vector(list) => &list[..],
        one => std::slice::from_ref(one),
    };
    let count = match () {
        () if parts.contains(&"v2") => 2,
        () if parts.contains(&"v4") => 4,
        () => 1,
    };
    if list.len() != count {
        return Err(format!("{} registers", list.len()));
    }
    let names = &mut decoder.names;
    let wide = list.iter().any(|operand| match operand {
        Operand::Name(name) => matches!(names.find(name), Some(Name::Wide(_))),
        _ => size == 8,
    });
    let mut registers = [0; 4];
    for (register, operand) in registers.iter_mut().zip(list) {
        *register = match (wide, loaded) {
            (true, true) => names.result_wide(operand)?.0,
            (true, false) => names.wide(operand)?.0,
            (false, true) => names.result_word(operand)?.0,
            (false, false) => names.word(operand)?.0,
        };
    }
    if size == 8 && !wide {
        return Err("64 bits in a register of 32".to_owned());
    }
    Ok(Items {
        size,
        count: count as u8,
        wide,
        signed: kind.starts_with('s'),
        registers,
    })
}

fn load<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let [to, address, ..] = operands else {
        return Ok(None);
    };
    Ok(Some(Op::Load {
        space: space(parts),
        volatile: ["volatile", "acquire", "relaxed"].contains(&parts[0]),
        items: items(decoder, parts, to, true)?,
        address: decoder.names.address(address)?,
    }))
}

fn store<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let [address, from, ..] = operands else {
        return Ok(None);
    };
    Ok(Some(Op::Store {
        space: space(parts),
        items: items(decoder, parts, from, false)?,
        address: decoder.names.address(address)?,
    }))
}

fn store_async<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let [address, from, mbarrier] = operands else {
        return Ok(None);
    };
    Ok(Some(Op::StoreAsync {
        items: items(decoder, parts, from, false)?,
        address: decoder.names.address(address)?,
        mbarrier: decoder.names.address(mbarrier)?,
    }))
}

fn atomic<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let [.., name, kind] = parts else {
        return Ok(None);
    };
    let op = match (*name, *kind) {
        ("add", "u32" | "s32") => Atomic::Add,
        ("inc", "u32") => Atomic::Inc,
        ("min", "u32") => Atomic::MinU,
        ("max", "u32") => Atomic::MaxU,
        ("and", "b32") => Atomic::And,
        ("or", "b32") => Atomic::Or,
        ("exch", "b32") => Atomic::Exchange,
        _ => return Ok(None),
    };
    let (old, address, value) = match operands {
        [old, address, value] => (decoder.names.result_word(old)?, address, value),
        [address, value] => (decoder.names.new_reg(), address, value),
        _ => return Ok(None),
    };
    Ok(Some(Op::Atomic {
        op,
        space: space(parts),
        old,
        address: decoder.names.address(address)?,
        value: decoder.names.word(value)?,
    }))
}

fn barrier<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    Ok(match (parts, operands) {
        (["warp", "sync"], [lanes]) => Some(Op::WarpSync(decoder.names.word(lanes)?)),
        (["cluster", "arrive", ..], []) => Some(Op::ClusterArrive),
        (["cluster", "wait", ..], []) => Some(Op::ClusterWait),
        (["sync", ..] | ["cta", "sync", ..], [id, threads @ ..]) => {
            let id = decoder.names.word(id)?;
            let threads = match threads {
                [] => None,
                [threads] => Some(decoder.names.word(threads)?),
                _ => return Ok(None),
            };
            Some(Op::BarSync { id, threads })
        }
        _ => None,
    })
}

fn lanes<'a>(decoder: &mut Decoder<'a>, opcode: &str, operands: &[Operand<'a>]) -> Result<Option<Op>, Wrong> {
    let names = &mut decoder.names;
    let shuffle = match opcode {
        "shfl.sync.up.b32" => Some(Shuffle::Up),
        "shfl.sync.down.b32" => Some(Shuffle::Down),
        "shfl.sync.bfly.b32" => Some(Shuffle::Butterfly),
        "shfl.sync.idx.b32" => Some(Shuffle::Index),
        _ => None,
    };
    if let (Some(op), [to, from @ ..]) = (shuffle, operands) {
        let (to, valid) = match *to {
            Operand::Pair(to, valid) => (names.result_word(&Operand::Name(to))?, names.pred_named(valid)?),
            _ => (names.result_word(to)?, names.new_pred()),
        };
        let from = words(decoder, from)?;
        return Ok(Some(Op::Shuffle { op, to, valid, from }));
    }
    let redux = match opcode.strip_prefix("redux.sync.") {
        Some("add.u32" | "add.s32") => Some(Redux::Add),
        Some("min.s32") => Some(Redux::MinS),
        Some("min.u32") => Some(Redux::MinU),
        Some("max.s32") => Some(Redux::MaxS),
        Some("max.u32") => Some(Redux::MaxU),
        Some("and.b32") => Some(Redux::And),
        Some("or.b32") => Some(Redux::Or),
        Some("xor.b32") => Some(Redux::Xor),
        _ => None,
    };
    let [to, from, lanes] = operands else {
        return Ok(None);
    };
    let lanes = names.word(lanes)?;
    if let Some(op) = redux {
        return Ok(Some(Op::Redux(
            op,
            names.result_word(to)?,
            [names.word(from)?, lanes],
        )));
    }
    let vote = match opcode {
        "vote.sync.all.pred" => Vote::All,
        "vote.sync.any.pred" => Vote::Any,
        "vote.sync.uni.pred" => Vote::Uniform,
        "vote.sync.ballot.b32" => {
            return Ok(Some(Op::Ballot(names.result_word(to)?, names.pred(from)?, lanes)));
        }
        _ => return Ok(None),
    };
    Ok(Some(Op::Vote(vote, names.pred(to)?, names.pred(from)?, lanes)))
}
