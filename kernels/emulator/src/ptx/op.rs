//! Instructions as they are run: every operand a place in a warp's registers.

use super::operations::{Compare, Extend, Kind, Logic, Long, Reduce, Shift, Word};
use crate::matrix::Half;

/// Where 32 bits of each lane are: first as numbered by the parser, then as [`super::allocate`] places them.
/// Constants are registers too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reg(pub(crate) u32);

/// Where 64 bits of each lane are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wide(pub(crate) u32);

/// Where a bit of each lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pred(pub(crate) u32);

/// Values that the hardware gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    ClusterCtaRank,
    ClusterSize,
    Lane,
    Warp,
    LanesBelow,
    Clock,
    GlobalTimer,
}

/// What an address is a number in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Generic,
    Shared,
    Local,
    Param,
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    None,
    Word(Reg),
    Wide(Wide),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) base: Base,
    pub(crate) offset: i64,
}

/// Registers that memory is loaded to or stored from: `count` of `size` bytes in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items {
    pub(crate) size: u8,
    pub(crate) count: u8,
    /// Whether the registers have 64 bits.
    pub(crate) wide: bool,
    /// Whether the registers' upper bits are copies of the sign.
    pub(crate) signed: bool,
    pub(crate) registers: [u32; 4],
}

/// Atomic operations on words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Inc,
    MinU,
    MaxU,
    And,
    Or,
    Exchange,
}

/// Which lane a lane reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What lanes tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
}

/// Sums of a word of all lanes, and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
}

/// Operations on an mbarrier, at a shared address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mbarrier {
    Init(Reg),
    Arrive(Reg),
    ExpectTx(Reg),
    ArriveExpectTx(Reg),
    /// Arrives once this lane's copies are done.
    ArriveAfterCopies,
}

/// A copy to shared memory by a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneCopy {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: u8,
    /// How many of the bytes are read, the rest are zeros.
    pub(crate) read: Option<Reg>,
}

/// A copy of a tile to shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileCopy {
    pub(crate) to: Address,
    pub(crate) map: Address,
    /// Column, row.
    pub(crate) at: [Reg; 2],
    pub(crate) mbarrier: Address,
    /// The blocks of the cluster that get it.
    pub(crate) blocks: Option<Reg>,
}

/// `mma.sync.m16n8k16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mma {
    pub(crate) half: Half,
    pub(crate) d: [Reg; 4],
    pub(crate) a: [Reg; 4],
    pub(crate) b: [Reg; 2],
    pub(crate) c: [Reg; 4],
}

/// The left side of [`Wgmma`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    Registers([Reg; 4]),
    Shared(Wide),
}

/// Whether a product is added to what is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Add {
    Always(bool),
    If(Pred),
}

/// `wgmma.mma_async.m64nNk16`.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub(crate) half: Half,
    pub(crate) sums: Vec<Reg>,
    pub(crate) a: Left,
    pub(crate) b: Wide,
    pub(crate) add: Add,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Word(Word, Reg, [Reg; 3]),
    Long(Long, Wide, [Wide; 3]),
    Shift(Shift, Wide, Wide, Reg),
    Extend(Extend, Wide, [Reg; 2]),
    Reduce(Reduce, Reg, Wide),
    /// (a, b, position, length)
    Insert(Reg, [Reg; 4]),
    InsertWide(Wide, [Wide; 2], [Reg; 2]),
    Lop3(u8, Reg, [Reg; 3]),
    CompareWords(Compare, Kind, Pred, [Reg; 2]),
    CompareWides(Compare, Kind, Pred, [Wide; 2]),
    Logic(Logic, Pred, [Pred; 2]),
    SetPred(Pred, bool),
    Select(Reg, [Reg; 2], Pred),
    SelectWide(Wide, [Wide; 2], Pred),
    Special(Special, Reg),
    SpecialWide(Special, Wide),
    Branch(u32),
    Exit,
    Nothing,
    Load {
        space: Space,
        volatile: bool,
        items: Items,
        address: Address,
    },
    Store {
        space: Space,
        items: Items,
        address: Address,
    },
    Atomic {
        op: Atomic,
        space: Space,
        old: Reg,
        address: Address,
        value: Reg,
    },
    /// The address in the shared memory of another block of the cluster.
    MapBlock(Reg, [Reg; 2]),
    BarSync {
        id: Reg,
        threads: Option<Reg>,
    },
    WarpSync(Reg),
    ClusterArrive,
    ClusterWait,
    Shuffle {
        op: Shuffle,
        to: Reg,
        valid: Pred,
        /// Value, lane, clamp and mask, lanes.
        from: [Reg; 4],
    },
    Vote(Vote, Pred, Pred, Reg),
    Ballot(Reg, Pred, Reg),
    Redux(Redux, Reg, [Reg; 2]),
    Mbarrier(Mbarrier, Address),
    TryWait {
        done: Pred,
        mbarrier: Address,
        parity: Reg,
    },
    LaneCopy(LaneCopy),
    CommitCopies,
    /// Waits until no more than these groups are on their way; `None`: no copy at all.
    WaitCopies(Option<u32>),
    TileCopy(Box<TileCopy>),
    StoreAsync {
        items: Items,
        address: Address,
        mbarrier: Address,
    },
    StoreMatrices(Address, [Reg; 4]),
    Mma(Box<Mma>),
    Wgmma(Box<Wgmma>),
    CommitProducts,
    WaitProducts(u32),
}

/// The predicate that an instruction is run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) pred: Pred,
    pub(crate) negated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Guard>,
    pub(crate) op: Op,
    pub(crate) line: u32,
}
