//! Opcodes of copies and products, and of what they are waited for with.

use super::{
    decode::Decoder,
    memory::words,
    op::{Add, LaneCopy, Left, Mbarrier, Mma, Op, TileCopy, Wgmma},
    operands::{Operand, Wrong},
};
use crate::matrix::Half;

pub(super) fn mbarrier<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let names = &mut decoder.names;
    Ok(match (parts, operands) {
        (["init", ..], [address, count]) => {
            let count = names.word(count)?;
            Some(Op::Mbarrier(Mbarrier::Init(count), names.address(address)?))
        }
        // The state that an arrival gives is of no use without a wait for it, which does not occur.
        (["arrive", "expect_tx", ..], [_, address, bytes]) => {
            let bytes = names.word(bytes)?;
            Some(Op::Mbarrier(
                Mbarrier::ArriveExpectTx(bytes),
                names.address(address)?,
            ))
        }
        (["arrive", ..], [_, address, count @ ..]) if parts.get(1) != Some(&"noComplete") => {
            let count = names.word(count.first().unwrap_or(&Operand::Integer(1)))?;
            Some(Op::Mbarrier(Mbarrier::Arrive(count), names.address(address)?))
        }
        (["expect_tx", ..], [address, bytes]) => {
            let bytes = names.word(bytes)?;
            Some(Op::Mbarrier(Mbarrier::ExpectTx(bytes), names.address(address)?))
        }
        (["try_wait" | "test_wait", "parity", ..], [done, address, parity]) => Some(Op::TryWait {
            done: names.pred(done)?,
            mbarrier: names.address(address)?,
            parity: names.word(parity)?,
        }),
        _ => None,
    })
}

pub(super) fn copy<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let names = &mut decoder.names;
    Ok(match (parts, operands) {
        (["async", "commit_group"], []) => Some(Op::CommitCopies),
        (["async", "wait_all"], []) => Some(Op::WaitCopies(None)),
        (["async", "wait_group"], [Operand::Integer(groups)]) => Some(Op::WaitCopies(Some(*groups as u32))),
        (["async", "mbarrier", "arrive", "noinc", ..], [address]) => {
            Some(Op::Mbarrier(Mbarrier::ArriveAfterCopies, names.address(address)?))
        }
        (["async", "ca" | "cg", ..], [to, from, Operand::Integer(bytes), rest @ ..]) => {
            let read = match rest {
                [] => None,
                [read] => Some(names.word(read)?),
                _ => return Ok(None),
            };
            Some(Op::LaneCopy(LaneCopy {
                to: names.address(to)?,
                from: names.address(from)?,
                bytes: *bytes as u8,
                read,
            }))
        }
        (
            [
                "async",
                "bulk",
                "tensor",
                "2d",
                "shared::cluster",
                "global",
                rest @ ..,
            ],
            [to, map, mbarrier, more @ ..],
        ) => {
            let Operand::Memory(_, _, coordinates) = map else {
                return Ok(None);
            };
            let [Operand::Vector(coordinates)] = &coordinates[..] else {
                return Ok(None);
            };
            let blocks = match more.first() {
                Some(blocks) if rest.contains(&"multicast::cluster") => Some(names.word(blocks)?),
                _ => None,
            };
            let (to, map, mbarrier) = (names.address(to)?, names.address(map)?, names.address(mbarrier)?);
            let at = words(decoder, coordinates)?;
            Some(Op::TileCopy(Box::new(TileCopy {
                to,
                map,
                at,
                mbarrier,
                blocks,
            })))
        }
        _ => None,
    })
}

pub(super) fn wgmma<'a>(
    decoder: &mut Decoder<'a>,
    parts: &[&str],
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let ["mma_async", "sync", "aligned", shape, "f32", kinds @ ..] = parts else {
        return Ok(match (parts[0], operands) {
            ("fence", []) => Some(Op::Nothing),
            ("commit_group", []) => Some(Op::CommitProducts),
            ("wait_group", [Operand::Integer(groups)]) => Some(Op::WaitProducts(*groups as u32)),
            _ => None,
        });
    };
    let half = match kinds {
        ["f16", "f16"] => Half::F16,
        ["bf16", "bf16"] => Half::Bf16,
        _ => return Ok(None),
    };
    let columns = shape
        .strip_prefix("m64n")
        .and_then(|shape| shape.strip_suffix("k16"));
    let columns = columns.and_then(|columns| columns.parse::<usize>().ok());
    let [Operand::Vector(sums), a, b, add, rest @ ..] = operands else {
        return Ok(None);
    };
    let plain = rest.iter().enumerate().all(|(i, operand)| match operand {
        Operand::Integer(1) => i < 2,
        Operand::Integer(0) => i >= 2,
        _ => false,
    });
    if !plain || columns != Some(sums.len() * 2) {
        return Err("negated or transposed sides, or another shape".to_owned());
    }
    let add = match add {
        Operand::Integer(value) => Add::Always(*value != 0),
        operand => Add::If(decoder.names.pred(operand)?),
    };
    let a = match a {
        Operand::Vector(registers) => Left::Registers(words(decoder, registers)?),
        descriptor => Left::Shared(decoder.names.wide(descriptor)?),
    };
    let sums = sums.iter().map(|sum| decoder.names.result_word(sum));
    Ok(Some(Op::Wgmma(Box::new(Wgmma {
        half,
        sums: sums.collect::<Result<_, _>>()?,
        a,
        b: decoder.names.wide(b)?,
        add,
    }))))
}

pub(super) fn mma<'a>(
    decoder: &mut Decoder<'a>,
    opcode: &str,
    operands: &[Operand<'a>],
) -> Result<Option<Op>, Wrong> {
    let half = match opcode {
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" => Half::F16,
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => Half::Bf16,
        _ => return Ok(None),
    };
    let [
        Operand::Vector(d),
        Operand::Vector(a),
        Operand::Vector(b),
        Operand::Vector(c),
    ] = operands
    else {
        return Ok(None);
    };
    // Results are registers: a constant cannot be one.
    for operand in d {
        decoder.names.result_word(operand)?;
    }
    Ok(Some(Op::Mma(Box::new(Mma {
        half,
        d: words(decoder, d)?,
        a: words(decoder, a)?,
        b: words(decoder, b)?,
        c: words(decoder, c)?,
    }))))
}
