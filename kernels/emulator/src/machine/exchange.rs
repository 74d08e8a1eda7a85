//! What lanes of a warp tell each other.

use super::{
    Run,
    access::bytes_of,
    cluster::Cluster,
    warp::{BoxedTrap, Trap, Warp, lanes_of},
};
use crate::{
    matrix::{self, Lanes},
    ptx::{Address, Mma, Op, Pred, Redux, Reg, Shuffle, Vote},
};

/// What a lane reads from one that does not take part: anything, on a GPU.
const NOTHING: u32 = u32::MAX;

impl Warp {
    /// Shuffles, votes and sums of the lanes of a mask.
    pub(super) fn exchange(&mut self, op: &Op, mask: u32) {
        match *op {
            Op::Shuffle { op, to, valid, from } => self.shuffle(op, (to, valid), from, mask),
            Op::Vote(vote, to, from, lanes) => {
                let among = mask & self.word(lanes)[mask.trailing_zeros() as usize];
                let yes = self.preds[from.0 as usize] & among;
                let result = match vote {
                    Vote::All => yes == among,
                    Vote::Any => yes != 0,
                    Vote::Uniform => yes == 0 || yes == among,
                };
                self.put_pred(to, if result { u32::MAX } else { 0 }, mask);
            }
            Op::Ballot(to, from, lanes) => {
                let among = mask & self.word(lanes)[mask.trailing_zeros() as usize];
                let yes = self.preds[from.0 as usize] & among;
                self.put(to, [yes; 32], mask);
            }
            Op::Redux(op, to, [from, lanes]) => {
                let among = mask & self.word(lanes)[mask.trailing_zeros() as usize];
                let from = self.word(from);
                let values = lanes_of(among).map(|lane| from[lane]);
                let result = values.reduce(|a, b| match op {
                    Redux::Add => a.wrapping_add(b),
                    Redux::MinS => (a as i32).min(b as i32) as u32,
                    Redux::MinU => a.min(b),
                    Redux::MaxS => (a as i32).max(b as i32) as u32,
                    Redux::MaxU => a.max(b),
                    Redux::And => a & b,
                    Redux::Or => a | b,
                    Redux::Xor => a ^ b,
                });
                self.put(to, [result.unwrap_or(NOTHING); 32], mask);
            }
            _ => {}
        }
    }

    fn shuffle(&mut self, op: Shuffle, (to, valid): (Reg, Pred), from: [Reg; 4], mask: u32) {
        let [value, by, limits, _] = from.map(|reg| self.word(reg));
        let mut result: Lanes = [0; 32];
        let mut within = 0;
        for (i, result) in result.iter_mut().enumerate() {
            let lane = i as u32;
            let (segment, clamp) = (limits[i] >> 8 & 31, limits[i] & 31);
            let last = lane & segment | clamp & !segment;
            let by = by[i] & 31;
            let source = match op {
                Shuffle::Up => lane.wrapping_sub(by),
                Shuffle::Down => lane + by,
                Shuffle::Butterfly => lane ^ by,
                Shuffle::Index => lane & segment | by & !segment,
            };
            let ok = match op {
                Shuffle::Up => source as i32 >= last as i32,
                _ => source <= last,
            };
            let source = if ok { source } else { lane };
            within |= u32::from(ok) << lane;
            let there = (mask >> (source & 31) & 1).wrapping_neg();
            *result = value[source as usize & 31] & there | NOTHING & !there;
        }
        self.put(to, result, mask);
        if mask == u32::MAX {
            self.words.look_if_same(to);
        }
        self.put_pred(valid, within, mask);
    }

    pub(super) fn mma(&mut self, mma: &Mma, mask: u32) {
        let a = mma.a.map(|reg| *self.word(reg));
        let b = mma.b.map(|reg| *self.word(reg));
        let c = mma.c.map(|reg| *self.word(reg));
        let sums = matrix::mma_16_8_16(mma.half, &a, &b, &c);
        for (to, sum) in mma.d.into_iter().zip(sums) {
            self.put(to, sum, mask);
        }
    }

    /// Four matrices of eight rows of 16 bytes: lane 8 i + j has the address of row j of matrix i.
    pub(super) fn store_matrices(
        &mut self,
        (_, cluster): (&mut Run<'_>, &mut Cluster),
        address: &Address,
        registers: [Reg; 4],
    ) -> Result<(), BoxedTrap> {
        let addresses = self.addresses(address);
        for (lane, &address) in addresses.iter().enumerate() {
            let (register, row) = (registers[lane / 8], lane % 8);
            let value = self.word(register);
            let data = bytes_of(&std::array::from_fn(|i| value[4 * row + i]));
            let place = cluster.place(self.block, address, 16);
            let (block, at) = place.map_err(|what| Trap::new(lane, what))?;
            cluster.shared[block].bytes_mut()[at..at + 16].copy_from_slice(&data);
        }
        Ok(())
    }
}
