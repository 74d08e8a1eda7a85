//! Opcodes whose operands are registers only.

use super::op::Special;
use super::operations::{Compare, Extend, Kind, Long, Reduce, Shift, Word};

/// Opcodes of words, and how many they take.
pub(super) fn word(opcode: &str) -> Option<(Word, usize)> {
    integer(opcode)
        .or_else(|| float(opcode))
        .or_else(|| conversion(opcode))
}

fn integer(opcode: &str) -> Option<(Word, usize)> {
    Some(match opcode {
        "mov.u32" | "mov.s32" | "mov.b32" | "mov.f32" => (Word::Mov, 1),
        "add.s32" | "add.u32" => (Word::Add, 2),
        "sub.s32" | "sub.u32" => (Word::Sub, 2),
        "mul.lo.s32" | "mul.lo.u32" => (Word::Mul, 2),
        "mul.hi.s32" => (Word::MulHiS, 2),
        "mul.hi.u32" => (Word::MulHiU, 2),
        "mul.wide.u16" => (Word::Mul, 2),
        "mul.wide.s16" => (Word::MulWideS16, 2),
        "mad.lo.s32" | "mad.lo.u32" => (Word::Mad, 3),
        "div.s32" => (Word::DivS, 2),
        "div.u32" => (Word::DivU, 2),
        "rem.s32" => (Word::RemS, 2),
        "rem.u32" => (Word::RemU, 2),
        "min.s32" => (Word::MinS, 2),
        "min.u32" | "min.u16" => (Word::MinU, 2),
        "max.s32" => (Word::MaxS, 2),
        "max.u32" | "max.u16" => (Word::MaxU, 2),
        "neg.s32" => (Word::NegS, 1),
        "abs.s32" => (Word::AbsS, 1),
        "and.b32" | "and.b16" => (Word::And, 2),
        "or.b32" | "or.b16" => (Word::Or, 2),
        "xor.b32" | "xor.b16" => (Word::Xor, 2),
        "not.b32" => (Word::Not, 1),
        "shl.b32" => (Word::Shl, 2),
        "shr.s32" => (Word::ShrS, 2),
        "shr.u32" | "shr.b32" | "shr.u16" | "shr.b16" => (Word::ShrU, 2),
        "shf.l.wrap.b32" => (Word::FunnelLWrap, 3),
        "shf.l.clamp.b32" => (Word::FunnelLClamp, 3),
        "shf.r.wrap.b32" => (Word::FunnelRWrap, 3),
        "shf.r.clamp.b32" => (Word::FunnelRClamp, 3),
        "popc.b32" => (Word::Popc, 1),
        "clz.b32" => (Word::Clz, 1),
        "brev.b32" => (Word::Brev, 1),
        "bfind.u32" => (Word::BfindU, 1),
        "bfind.shiftamt.u32" => (Word::BfindShiftU, 1),
        "bfe.u32" => (Word::BfeU, 3),
        "bfe.s32" => (Word::BfeS, 3),
        "prmt.b32" => (Word::Prmt, 3),
        "mov.u16" | "mov.s16" | "mov.b16" | "cvt.u16.u32" | "cvt.u16.s32" => (Word::Low16, 1),
        "add.s16" | "add.u16" => (Word::Add16, 2),
        "sub.s16" | "sub.u16" => (Word::Sub16, 2),
        "mul.lo.s16" | "mul.lo.u16" => (Word::Mul16, 2),
        "not.b16" => (Word::Not16, 1),
        "shl.b16" => (Word::Shl16, 2),
        "shr.s16" => (Word::ShrS16, 2),
        _ => return None,
    })
}

fn float(opcode: &str) -> Option<(Word, usize)> {
    Some(match opcode {
        "add.f32" | "add.rn.f32" => (Word::AddF, 2),
        "sub.f32" | "sub.rn.f32" => (Word::SubF, 2),
        "sub.rm.f32" => (Word::SubDownF, 2),
        "sub.rp.f32" => (Word::SubUpF, 2),
        "mul.f32" | "mul.rn.f32" => (Word::MulF, 2),
        "fma.rn.f32" => (Word::FmaF, 3),
        "fma.rm.f32" => (Word::FmaDownF, 3),
        "div.rn.f32" | "div.approx.f32" => (Word::DivF, 2),
        "min.f32" => (Word::MinF, 2),
        "max.f32" => (Word::MaxF, 2),
        "neg.f32" => (Word::NegF, 1),
        "abs.f32" => (Word::AbsF, 1),
        "copysign.f32" => (Word::CopysignF, 2),
        "rcp.rn.f32" | "rcp.approx.f32" => (Word::RcpF, 1),
        "rcp.approx.ftz.f32" => (Word::RcpFlushF, 1),
        "sqrt.rn.f32" | "sqrt.approx.f32" => (Word::SqrtF, 1),
        "rsqrt.approx.f32" => (Word::RsqrtF, 1),
        "ex2.approx.f32" => (Word::Exp2F, 1),
        "ex2.approx.ftz.f32" => (Word::Exp2FlushF, 1),
        "lg2.approx.f32" => (Word::Log2F, 1),
        "add.f16x2" | "add.rn.f16x2" => (Word::AddF16x2, 2),
        "sub.f16x2" | "sub.rn.f16x2" => (Word::SubF16x2, 2),
        "mul.f16x2" | "mul.rn.f16x2" => (Word::MulF16x2, 2),
        "fma.rn.f16x2" => (Word::FmaF16x2, 3),
        "add.bf16x2" | "add.rn.bf16x2" => (Word::AddBf16x2, 2),
        "sub.bf16x2" | "sub.rn.bf16x2" => (Word::SubBf16x2, 2),
        "mul.bf16x2" | "mul.rn.bf16x2" => (Word::MulBf16x2, 2),
        "fma.rn.bf16x2" => (Word::FmaBf16x2, 3),
        _ => return None,
    })
}

fn conversion(opcode: &str) -> Option<(Word, usize)> {
    Some(match opcode {
        "cvt.u32.u16" => (Word::Mov, 1),
        "cvt.s32.s16" | "cvt.u32.s16" => (Word::SignExtend16, 1),
        "cvt.s32.s8" | "cvt.u32.s8" => (Word::SignExtend8, 1),
        "cvt.u32.u8" | "cvt.u16.u8" => (Word::ZeroExtend8, 1),
        "cvt.sat.f32.f32" => (Word::SaturateF, 1),
        "cvt.rzi.f32.f32" => (Word::RoundZeroF, 1),
        "cvt.rni.f32.f32" => (Word::RoundEvenF, 1),
        "cvt.rmi.f32.f32" => (Word::RoundDownF, 1),
        "cvt.rpi.f32.f32" => (Word::RoundUpF, 1),
        "cvt.f32.f16" => (Word::F16ToF, 1),
        "cvt.f32.bf16" => (Word::Bf16ToF, 1),
        "cvt.rn.f16.f32" => (Word::FToF16, 1),
        "cvt.rn.bf16.f32" => (Word::FToBf16, 1),
        "cvt.rn.f16x2.f32" => (Word::FToF16x2, 2),
        "cvt.rn.bf16x2.f32" => (Word::FToBf16x2, 2),
        "cvt.rn.f32.s32" => (Word::SToF, 1),
        "cvt.rn.f32.u32" | "cvt.rn.f32.u16" => (Word::UToF, 1),
        "cvt.rzi.s32.f32" => (Word::FToSZero, 1),
        "cvt.rni.s32.f32" => (Word::FToSEven, 1),
        "cvt.rmi.s32.f32" => (Word::FToSDown, 1),
        "cvt.rzi.u32.f32" => (Word::FToUZero, 1),
        "cvt.rni.u32.f32" => (Word::FToUEven, 1),
        _ => return None,
    })
}

/// Opcodes of 64-bit values, and how many they take.
pub(super) fn long(opcode: &str) -> Option<(Long, usize)> {
    Some(match opcode {
        "mov.u64" | "mov.s64" | "mov.b64" | "mov.f64" | "cvta.to.global.u64" | "cvta.global.u64" => {
            (Long::Mov, 1)
        }
        // Addresses of parameters and of local memory are generic from the beginning.
        "cvta.param.u64" | "cvta.local.u64" | "cvta.to.local.u64" => (Long::Mov, 1),
        "cvta.shared.u64" => (Long::FromShared, 1),
        "cvta.to.shared.u64" => (Long::ToShared, 1),
        "add.s64" | "add.u64" => (Long::Add, 2),
        "sub.s64" | "sub.u64" => (Long::Sub, 2),
        "mul.lo.s64" | "mul.lo.u64" => (Long::Mul, 2),
        "mul.hi.s64" => (Long::MulHiS, 2),
        "mul.hi.u64" => (Long::MulHiU, 2),
        "mad.lo.s64" | "mad.lo.u64" => (Long::Mad, 3),
        "div.s64" => (Long::DivS, 2),
        "div.u64" => (Long::DivU, 2),
        "rem.s64" => (Long::RemS, 2),
        "rem.u64" => (Long::RemU, 2),
        "min.s64" => (Long::MinS, 2),
        "min.u64" => (Long::MinU, 2),
        "max.s64" => (Long::MaxS, 2),
        "max.u64" => (Long::MaxU, 2),
        "neg.s64" => (Long::NegS, 1),
        "and.b64" => (Long::And, 2),
        "or.b64" => (Long::Or, 2),
        "xor.b64" => (Long::Xor, 2),
        "not.b64" => (Long::Not, 1),
        "add.f64" | "add.rn.f64" => (Long::AddF, 2),
        "sub.f64" | "sub.rn.f64" => (Long::SubF, 2),
        "mul.f64" | "mul.rn.f64" => (Long::MulF, 2),
        "fma.rn.f64" => (Long::FmaF, 3),
        "div.rn.f64" => (Long::DivF, 2),
        "min.f64" => (Long::MinF, 2),
        "max.f64" => (Long::MaxF, 2),
        "neg.f64" => (Long::NegF, 1),
        "abs.f64" => (Long::AbsF, 1),
        "rcp.approx.ftz.f64" | "rcp.rn.f64" => (Long::RcpF, 1),
        "sqrt.rn.f64" => (Long::SqrtF, 1),
        "cvt.rpi.f64.f64" => (Long::RoundUpF, 1),
        "cvt.rmi.f64.f64" => (Long::RoundDownF, 1),
        "cvt.rzi.f64.f64" => (Long::RoundZeroF, 1),
        "cvt.rni.f64.f64" => (Long::RoundEvenF, 1),
        "cvt.rn.f64.u64" => (Long::UToF, 1),
        "cvt.rn.f64.s64" => (Long::SToF, 1),
        "cvt.rzi.u64.f64" => (Long::FToUZero, 1),
        "cvt.rzi.s64.f64" => (Long::FToSZero, 1),
        _ => return None,
    })
}

pub(super) fn shift(opcode: &str) -> Option<Shift> {
    Some(match opcode {
        "shl.b64" => Shift::Left,
        "shr.s64" => Shift::RightS,
        "shr.u64" | "shr.b64" => Shift::RightU,
        _ => return None,
    })
}

/// Opcodes of words to 64 bits, and how many they take.
pub(super) fn extend(opcode: &str) -> Option<(Extend, usize)> {
    Some(match opcode {
        "cvt.s64.s32" | "cvt.u64.s32" => (Extend::Signed, 1),
        "cvt.u64.u32" | "cvt.s64.u32" | "cvt.u64.u16" | "cvt.s64.u16" => (Extend::Unsigned, 1),
        "mul.wide.s32" => (Extend::MulS, 2),
        "mul.wide.u32" => (Extend::MulU, 2),
        "cvt.f64.f32" => (Extend::FToF, 1),
        "cvt.rn.f64.s32" => (Extend::SToF, 1),
        "cvt.rn.f64.u32" => (Extend::UToF, 1),
        "cvt.rni.u64.f32" => (Extend::FToUEven, 1),
        "cvt.rzi.u64.f32" => (Extend::FToUZero, 1),
        "cvt.rni.s64.f32" => (Extend::FToSEven, 1),
        "cvt.rzi.s64.f32" => (Extend::FToSZero, 1),
        _ => return None,
    })
}

pub(super) fn reduce(opcode: &str) -> Option<Reduce> {
    Some(match opcode {
        "cvt.u32.u64" | "cvt.s32.s64" | "cvt.u32.s64" | "cvt.s32.u64" => Reduce::Low,
        "cvt.u16.u64" => Reduce::Low16,
        "cvt.rn.f32.f64" => Reduce::FToF,
        "cvt.rn.f32.s64" => Reduce::SToF,
        "cvt.rn.f32.u64" => Reduce::UToF,
        "cvt.rzi.s32.f64" => Reduce::FToSZero,
        "cvt.rzi.u32.f64" => Reduce::FToUZero,
        "popc.b64" => Reduce::Popc,
        "clz.b64" => Reduce::Clz,
        _ => return None,
    })
}

/// `setp` opcodes: the comparison, what is compared, and whether it has 64 bits.
pub(super) fn compare(opcode: &str) -> Option<(Compare, Kind, bool)> {
    let (compare, kind) = opcode.strip_prefix("setp.")?.split_once('.')?;
    let compare = match compare {
        "eq" => Compare::Eq,
        "ne" => Compare::Ne,
        "lt" | "lo" => Compare::Lt,
        "le" | "ls" => Compare::Le,
        "gt" | "hi" => Compare::Gt,
        "ge" | "hs" => Compare::Ge,
        "equ" => Compare::EqU,
        "neu" => Compare::NeU,
        "ltu" => Compare::LtU,
        "leu" => Compare::LeU,
        "gtu" => Compare::GtU,
        "geu" => Compare::GeU,
        "num" => Compare::Num,
        "nan" => Compare::Nan,
        _ => return None,
    };
    let (kind, wide) = match kind {
        "s16" => (Kind::Signed16, false),
        "u16" | "b16" | "u32" | "b32" => (Kind::Unsigned, false),
        "s32" => (Kind::Signed, false),
        "f32" => (Kind::Float, false),
        "u64" | "b64" => (Kind::Unsigned, true),
        "s64" => (Kind::Signed, true),
        "f64" => (Kind::Float, true),
        _ => return None,
    };
    Some((compare, kind, wide))
}

/// Registers that hold what the hardware gives.
pub(super) fn special(name: &str) -> Option<Special> {
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((name, last)) = name.split_once('.') {
        return Some(match (name, axis(last)?) {
            ("%tid", axis) => Special::Tid(axis),
            ("%ntid", axis) => Special::Ntid(axis),
            ("%ctaid", axis) => Special::Ctaid(axis),
            ("%nctaid", axis) => Special::Nctaid(axis),
            ("%cluster_nctaid", 0) => Special::ClusterSize,
            ("%cluster_ctaid", 0) => Special::ClusterCtaRank,
            _ => return None,
        });
    }
    Some(match name {
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterSize,
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%lanemask_lt" => Special::LanesBelow,
        "%clock" | "%clock64" => Special::Clock,
        "%globaltimer" => Special::GlobalTimer,
        _ => return None,
    })
}
