//! Instructions whose effects come later, and those that wait for them.

use super::{
    Run, barriers,
    cluster::Cluster,
    copies::{self, Later, Move, Moves, What},
    warp::{BoxedTrap, Trap, Warp, lanes_of},
};
use crate::{
    ptx::{Address, Items, LaneCopy, Mbarrier, PARAM_WINDOW, Reg, SHARED_WINDOW, TileCopy},
    tensor_map::TensorMap,
};

/// Bytes of a map of a matrix.
const MAP_BYTES: usize = 128;

fn trap<T>(lane: usize, result: Result<T, String>) -> Result<T, BoxedTrap> {
    result.map_err(|what| Trap::new(lane, what))
}

impl Warp {
    /// Each lane's mbarrier: block and offset.
    fn mbarrier_at(&self, cluster: &Cluster, lane: usize, address: u64) -> Result<(usize, usize), BoxedTrap> {
        trap(lane, cluster.place(self.block, address, 8))
    }

    pub(super) fn mbarrier(
        &mut self,
        cluster: &mut Cluster,
        (op, address): (Mbarrier, &Address),
        mask: u32,
    ) -> Result<(), BoxedTrap> {
        let addresses = self.addresses(address);
        for lane in lanes_of(mask) {
            let (block, at) = self.mbarrier_at(cluster, lane, addresses[lane])?;
            let value = |reg: Reg| self.word(reg)[lane];
            let done = match op {
                Mbarrier::Init(count) => {
                    let new = barriers::Mbarrier::new(value(count));
                    new.and_then(|new| cluster.write_mbarrier(block, at, new))
                }
                Mbarrier::Arrive(count) => {
                    let count = value(count);
                    cluster.mbarrier(block, at, |mbarrier| mbarrier.arrive(count))
                }
                Mbarrier::ExpectTx(bytes) => {
                    let bytes = value(bytes).into();
                    cluster.mbarrier(block, at, |mbarrier| mbarrier.expect(bytes))
                }
                Mbarrier::ArriveExpectTx(bytes) => {
                    let bytes = value(bytes).into();
                    cluster.mbarrier(block, at, |mbarrier| {
                        mbarrier.expect(bytes)?;
                        mbarrier.arrive(1)
                    })
                }
                Mbarrier::ArriveAfterCopies => Ok(()),
            };
            trap(lane, done)?;
        }
        Ok(())
    }

    /// The lanes whose mbarrier has completed the phase of the parity that they give.
    pub(super) fn try_wait(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        (address, parity): (&Address, Reg),
        mask: u32,
    ) -> Result<u32, BoxedTrap> {
        let addresses = self.addresses(address);
        let mut complete = 0;
        for lane in lanes_of(mask) {
            let (block, at) = self.mbarrier_at(cluster, lane, addresses[lane])?;
            let parity = self.word(parity)[lane];
            let mut done = trap(lane, cluster.read_mbarrier(block, at))?.is_complete(parity);
            if !done && trap(lane, cluster.perform_for(&mut run.found, block, at))? {
                done = trap(lane, cluster.read_mbarrier(block, at))?.is_complete(parity);
            }
            complete |= u32::from(done) << lane;
        }
        Ok(complete)
    }

    pub(super) fn begin_copies(&mut self, copy: &LaneCopy, mask: u32) -> Result<(), BoxedTrap> {
        let (to, from) = (self.addresses(&copy.to), self.addresses(&copy.from));
        let mut each = [Move {
            from: 0,
            to: 0,
            bytes: copy.bytes,
            read: copy.bytes,
        }; 32];
        let alignment = u64::from(copy.bytes);
        for lane in lanes_of(mask) {
            let moved = &mut each[lane];
            (moved.from, moved.to) = (from[lane], to[lane] as u32);
            if let Some(read) = copy.read {
                moved.read = self.word(read)[lane].min(copy.bytes.into()) as u8;
            }
            if !to[lane].is_multiple_of(alignment) || moved.read > 0 && !from[lane].is_multiple_of(alignment)
            {
                let what = format!("cp.async from {:#x} to {:#x}, not aligned", from[lane], to[lane]);
                return Err(Trap::new(lane, what));
            }
        }
        self.copies.push(Moves {
            lanes: mask,
            each,
            groups: self.groups,
        });
        Ok(())
    }

    /// Does the copies of lanes until no more than some of each lane's groups are left; `None`: all copies.
    pub(super) fn finish_copies(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        left: Option<u32>,
        mask: u32,
    ) -> Result<(), BoxedTrap> {
        let lane = mask.trailing_zeros() as usize;
        trap(lane, cluster.perform_arrivals(&mut run.found, self.number))?;
        let committed = self.groups;
        let shared = &mut cluster.shared[self.block];
        for moves in &mut self.copies {
            let now = |lane: &usize| left.is_none_or(|left| moves.groups[*lane] + left < committed[*lane]);
            for lane in lanes_of(moves.lanes & mask).filter(now) {
                let done = copies::perform(&moves.each[lane], &mut run.found, shared.bytes_mut());
                trap(lane, done)?;
                moves.lanes &= !(1 << lane);
            }
        }
        self.copies.retain(|moves| moves.lanes != 0);
        Ok(())
    }

    /// Lanes' copies so far are to be done, and counted, when their mbarrier is asked.
    pub(super) fn arrive_after_copies(
        &mut self,
        cluster: &mut Cluster,
        address: &Address,
        mask: u32,
    ) -> Result<(), BoxedTrap> {
        let addresses = self.addresses(address);
        for lane in lanes_of(mask) {
            let (block, mbarrier) = self.mbarrier_at(cluster, lane, addresses[lane])?;
            if block != self.block {
                return Err(Trap::new(
                    lane,
                    "an arrival after copies at another block's mbarrier".to_owned(),
                ));
            }
            let of_lane = self
                .copies
                .iter_mut()
                .filter(|moves| moves.lanes >> lane & 1 == 1);
            let moves = of_lane.map(|moves| {
                moves.lanes &= !(1 << lane);
                moves.each[lane]
            });
            let what = What::Arrival {
                moves: moves.collect(),
                warp: self.number,
            };
            cluster.later.push(Later {
                block,
                mbarrier,
                what,
            });
        }
        self.copies.retain(|moves| moves.lanes != 0);
        Ok(())
    }

    pub(super) fn begin_tiles(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        copy: &TileCopy,
        mask: u32,
    ) -> Result<(), BoxedTrap> {
        let (to, maps) = (self.addresses(&copy.to), self.addresses(&copy.map));
        let mbarriers = self.addresses(&copy.mbarrier);
        for lane in lanes_of(mask) {
            let map = trap(lane, map_at(run, maps[lane]))?;
            let [column, row] = copy.at.map(|reg| i64::from(self.word(reg)[lane] as i32));
            let blocks = match copy.blocks {
                Some(blocks) => self.word(blocks)[lane] & 0xffff,
                None => 0,
            };
            // Own mbarrier, or the one at the same offset of each block that gets the tile.
            let (own, mbarrier) = self.mbarrier_at(cluster, lane, mbarriers[lane])?;
            let (block, to) = trap(lane, cluster.place(self.block, to[lane], 128))?;
            if own != block || map.tile_bytes() == 0 {
                return Err(Trap::new(
                    lane,
                    "a tile and its mbarrier in different blocks".to_owned(),
                ));
            }
            let all = if copy.blocks.is_some() { blocks } else { 1 << block };
            if all >> cluster.shared.len() != 0 {
                return Err(Trap::new(
                    lane,
                    format!("a tile for blocks {all:#b} of the cluster"),
                ));
            }
            for block in lanes_of(all) {
                let what = What::Tile { map, row, column, to };
                cluster.later.push(Later {
                    block,
                    mbarrier,
                    what,
                });
            }
        }
        Ok(())
    }

    pub(super) fn store_async(
        &mut self,
        cluster: &mut Cluster,
        (items, address, mbarrier): (&Items, &Address, &Address),
        mask: u32,
    ) -> Result<(), BoxedTrap> {
        if cluster.shared.len() < 2 {
            // So say GPUs, though the instruction's description does not.
            let lane = mask.trailing_zeros() as usize;
            return Err(Trap::new(
                lane,
                "st.async in a block without a cluster".to_owned(),
            ));
        }
        let (to, mbarriers) = (self.addresses(address), self.addresses(mbarrier));
        let len = usize::from(items.size) * usize::from(items.count);
        for lane in lanes_of(mask) {
            let (block, to) = trap(lane, cluster.place(self.block, to[lane], len))?;
            let (of, mbarrier) = self.mbarrier_at(cluster, lane, mbarriers[lane])?;
            if of != block {
                return Err(Trap::new(
                    lane,
                    "st.async and its mbarrier in different blocks".to_owned(),
                ));
            }
            let data = self.stored(items, lane);
            let what = What::Bytes { data, len, to };
            cluster.later.push(Later {
                block,
                mbarrier,
                what,
            });
        }
        Ok(())
    }
}

/// The map of a matrix at a generic address.
fn map_at(run: &mut Run<'_>, address: u64) -> Result<TensorMap, String> {
    let mut words = [0; 16];
    if address & PARAM_WINDOW == PARAM_WINDOW {
        let at = (address & (SHARED_WINDOW - 1)) as usize;
        let bytes = run.arguments.bytes().get(at..at + MAP_BYTES);
        let bytes = bytes.ok_or_else(|| format!("a map at {at:#x} of the arguments"))?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    } else {
        if address >= SHARED_WINDOW
            || !address.is_multiple_of(64)
            || !run.found.holds(address, MAP_BYTES as u64)
        {
            return Err(format!("a map at {address:#x}, in no allocation"));
        }
        for (i, word) in words.iter_mut().enumerate() {
            let from = std::ptr::with_exposed_provenance::<u64>(address as usize + 8 * i);
            // SAFETY: within an allocation, as was just found, and aligned.
            *word = unsafe { from.read_volatile() };
        }
    }
    TensorMap::decode(&words).ok_or_else(|| format!("no map of a matrix at {address:#x}"))
}
