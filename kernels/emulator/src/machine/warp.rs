//! A warp: its registers, and which of its lanes run.

use super::{
    Run,
    cluster::{Cluster, Shared},
    copies::Moves,
    products::Products,
    registers::{Bank, Registers},
};
use crate::{matrix::Lanes, ptx::Program};

/// Instructions after which other lanes, and other warps, have their turn.
const TURN: u32 = 20_000;
/// A turn of fewer instructions than this that ends by waiting has got nothing done.
const WAITING: u32 = 200;

/// Why a lane cannot go on.
pub(super) struct Trap {
    pub(super) lane: usize,
    pub(super) what: String,
}

impl Trap {
    pub(super) fn new(lane: usize, what: String) -> BoxedTrap {
        Box::new(Self { lane, what })
    }
}

/// Faults are rare and results many: a fault is a pointer.
pub(super) type BoxedTrap = Box<Trap>;

/// What became of a warp's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It ran.
    Ran,
    /// It asked for something within its cluster, again and again.
    Asked,
    /// It looked at memory that others, outside of its cluster too, may write.
    Looked,
    /// All its lanes wait for other lanes.
    Blocked,
    Ended,
}

/// What an instruction does to the lanes that run it.
pub(super) enum Flow {
    Next,
    /// Other lanes first, then these, behind the instruction.
    Yield(Turn),
    /// The lanes wait until other lanes have come here, too.
    Park,
    /// The lanes are held at a barrier, behind the instruction.
    Hold,
    /// The lanes that are taken here; the others go on.
    Jump(u32, u32),
    End,
}

/// A warp of a block.
pub(super) struct Warp {
    /// Its number in the cluster, in its block, and the block's.
    pub(super) number: usize,
    pub(super) place: usize,
    pub(super) block: usize,
    /// Each lane's place in its block, along each dimension.
    pub(super) tids: [Lanes; 3],
    pub(super) words: Bank<u32>,
    pub(super) wides: Bank<u64>,
    pub(super) preds: Vec<u32>,
    /// Each lane's own memory, if the kernel uses any.
    pub(super) local: Vec<Shared>,
    /// Copies that are on their way, and how many groups of them each lane has committed.
    pub(super) copies: Vec<Moves>,
    pub(super) groups: [u32; 32],
    pub(super) products: Products,
    /// Where each lane that does not run now goes on.
    pcs: [u32; 32],
    /// The lanes that run, and where.
    group: u32,
    pc: u32,
    /// The first place where other lanes, that could run, are.
    rival: u32,
    /// Lanes that wait for others to come to the same instruction.
    parked: u32,
    /// Lanes that let others go first.
    yielded: u32,
    /// Lanes that wait for the cluster's barrier.
    pub(super) at_cluster: u32,
    /// Whether lanes have ended, which parked ones may have waited for.
    look_again: bool,
}

/// The lanes of a mask.
#[inline(always)]
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        (rest != 0).then(|| {
            rest &= rest - 1;
            lane
        })
    })
}

impl Warp {
    /// A warp at a kernel's beginning: its number in the cluster, and how many there are in a block.
    pub(super) fn new(run: &Run<'_>, registers: Registers, (number, per_block): (usize, usize)) -> Self {
        let program = run.program;
        let [width, height, _] = run.block;
        let first = (number % per_block * 32) as u32;
        let mut warp = Self {
            tids: [
                each!(|i| (first + i as u32) % width),
                each!(|i| (first + i as u32) / width % height),
                each!(|i| (first + i as u32) / width / height),
            ],
            number,
            place: number % per_block,
            block: number / per_block,
            words: registers.words,
            wides: registers.wides,
            preds: vec![0; program.preds],
            local: Vec::new(),
            copies: Vec::new(),
            groups: [0; 32],
            products: Products::default(),
            pcs: [0; 32],
            group: 0,
            pc: 0,
            rival: 0,
            parked: 0,
            yielded: 0,
            at_cluster: 0,
            look_again: false,
        };
        if program.local_bytes > 0 {
            warp.local
                .extend((0..32).map(|_| Shared::new(program.local_bytes)));
        }
        warp
    }

    /// The registers of a warp that has ended; `None` if they were taken before.
    pub(super) fn take_registers(&mut self) -> Option<Registers> {
        self.local = Vec::new();
        let words = std::mem::take(&mut self.words);
        let wides = std::mem::take(&mut self.wides);
        (!words.is_empty()).then_some(Registers { words, wides })
    }

    /// The line of the text that a lane is at.
    pub(super) fn line(&self, program: &Program, lane: usize) -> usize {
        let pc = if self.group >> lane & 1 == 1 {
            self.pc
        } else {
            self.pcs[lane]
        };
        program.code[pc as usize].line as usize
    }

    /// The first lane that has not ended.
    pub(super) fn first_lane(&self, cluster: &Cluster) -> usize {
        cluster.board.live(self.number).trailing_zeros() as usize % 32
    }

    /// Runs until the warp's turn is over.
    pub(super) fn turn(&mut self, run: &mut Run<'_>, cluster: &mut Cluster) -> Result<Turn, BoxedTrap> {
        #[cfg(target_arch = "x86_64")]
        if run.has_fma {
            // SAFETY: the CPU has these instructions, as was seen when the run began.
            return unsafe { self.turn_with_fma(run, cluster) };
        }
        self.turn_anywhere(run, cluster)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,f16c,fma,lzcnt,popcnt")]
    fn turn_with_fma(&mut self, run: &mut Run<'_>, cluster: &mut Cluster) -> Result<Turn, BoxedTrap> {
        self.instructions(run, cluster)
    }

    fn turn_anywhere(&mut self, run: &mut Run<'_>, cluster: &mut Cluster) -> Result<Turn, BoxedTrap> {
        self.instructions(run, cluster)
    }

    #[inline(always)]
    fn instructions(&mut self, run: &mut Run<'_>, cluster: &mut Cluster) -> Result<Turn, BoxedTrap> {
        let code = &run.program.code[..];
        let (mut steps, mut asked) = (0_u32, Turn::Blocked);
        if !self.choose(cluster) {
            return Ok(self.waiting(cluster));
        }
        loop {
            let instruction = &code[self.pc as usize];
            steps += 1;
            let mask = match instruction.guard {
                None => self.group,
                Some(guard) => {
                    let pred = self.preds[guard.pred.0 as usize];
                    self.group & if guard.negated { !pred } else { pred }
                }
            };
            let flow = if mask == 0 {
                Flow::Next
            } else {
                self.execute(run, cluster, (&instruction.op, mask))?
            };
            let go_on = match flow {
                Flow::Next => {
                    self.pc += 1;
                    self.pc < self.rival || self.choose_now(cluster)
                }
                Flow::Jump(to, taken) => {
                    self.jump(to, taken);
                    self.pc < self.rival || self.choose_now(cluster)
                }
                other => {
                    asked = self.leave(cluster, other, (mask, asked));
                    self.choose_now(cluster)
                }
            };
            if !go_on || steps >= TURN {
                break;
            }
        }
        self.put_back();
        Ok(match asked {
            _ if cluster.board.live(self.number) == 0 => Turn::Ended,
            waited @ (Turn::Asked | Turn::Looked) if steps < WAITING => waited,
            _ => {
                // Lanes that only wait for the others of a long loop get their turn, too.
                self.yielded = if steps >= TURN { self.group } else { 0 };
                Turn::Ran
            }
        })
    }

    /// Lanes of a branch that are taken go there, others behind it.
    fn jump(&mut self, to: u32, taken: u32) {
        let rest = self.group & !taken;
        if rest == 0 {
            self.pc = to;
            return;
        }
        self.put_back();
        for lane in lanes_of(taken) {
            self.pcs[lane] = to;
        }
        for lane in lanes_of(rest) {
            self.pcs[lane] = self.pc + 1;
        }
        self.group = 0;
        self.rival = 0;
    }

    /// Lanes stop running, by what an instruction said.
    fn leave(&mut self, cluster: &mut Cluster, flow: Flow, (mask, asked): (u32, Turn)) -> Turn {
        let rest = self.group & !mask;
        let (at, mut asked) = (self.pc, asked);
        self.put_back();
        for lane in lanes_of(rest) {
            self.pcs[lane] = at + 1;
        }
        let mut next = at + 1;
        match flow {
            Flow::Yield(turn) => {
                self.yielded |= mask;
                asked = match asked {
                    Turn::Looked => asked,
                    _ => turn,
                };
            }
            Flow::Park => {
                self.parked |= mask;
                next = at;
            }
            Flow::End => {
                cluster.board.end(self.number, mask);
                self.look_again = true;
            }
            _ => {}
        }
        for lane in lanes_of(mask) {
            self.pcs[lane] = next;
        }
        self.group = 0;
        asked
    }

    /// The running lanes become lanes that could run.
    fn put_back(&mut self) {
        for lane in lanes_of(self.group) {
            self.pcs[lane] = self.pc;
        }
    }

    /// Lanes that could run.
    fn ready(&self, cluster: &Cluster) -> u32 {
        let board = &cluster.board;
        let waiting =
            self.parked | board.held(self.number) | self.at_cluster & board.before_cluster(self.number);
        board.live(self.number) & !waiting
    }

    /// Chooses the lanes that run at a turn's beginning; false if there are none.
    fn choose(&mut self, cluster: &Cluster) -> bool {
        self.put_back();
        self.group = 0;
        if self.ready(cluster) & !self.yielded == 0 {
            self.yielded = 0;
        }
        if self.choose_now(cluster) {
            return true;
        }
        self.yielded = 0;
        self.choose_now(cluster)
    }

    /// Chooses the lanes that run: those that are the farthest behind; false if none could but those that have yielded.
    fn choose_now(&mut self, cluster: &Cluster) -> bool {
        self.put_back();
        self.at_cluster &= cluster.board.before_cluster(self.number);
        let mut ready = self.ready(cluster) & !self.yielded;
        if ready == 0 && self.look_again {
            // Those whose wait is not over come back to it.
            self.look_again = false;
            self.parked = 0;
            ready = self.ready(cluster) & !self.yielded;
        }
        self.group = 0;
        if ready == 0 {
            return false;
        }
        let first = lanes_of(ready).map(|lane| self.pcs[lane]).min().unwrap_or(0);
        self.pc = first;
        self.rival = u32::MAX;
        for lane in lanes_of(ready) {
            if self.pcs[lane] == first {
                self.group |= 1 << lane;
            } else {
                self.rival = self.rival.min(self.pcs[lane]);
            }
        }
        true
    }

    fn waiting(&self, cluster: &Cluster) -> Turn {
        match cluster.board.live(self.number) {
            0 => Turn::Ended,
            _ => Turn::Blocked,
        }
    }

    /// Lanes have come to an instruction that `wanted` have to be at: true once all are, and run it together.
    pub(super) fn meet(&mut self, cluster: &Cluster, mask: u32, wanted: u32) -> Option<u32> {
        let here = lanes_of(self.parked).filter(|&lane| self.pcs[lane] == self.pc);
        let here = here.fold(mask, |here, lane| here | 1 << lane);
        let wanted = wanted & cluster.board.live(self.number);
        if wanted & !here != 0 {
            return None;
        }
        self.parked &= !here;
        self.group |= here;
        Some(here)
    }
}
