//! What happens later: copies and stores to shared memory, done when somebody asks whether they are.

use super::{access, barriers::Mbarrier, cluster::Cluster};
use crate::{memory::Found, tensor_map::TensorMap};

/// A lane's copy of up to 16 bytes from global to shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) from: u64,
    pub(super) to: u32,
    pub(super) bytes: u8,
    /// How many bytes are read, the rest are zeros.
    pub(super) read: u8,
}

/// Copies of a warp's lanes that one instruction asked for.
pub(super) struct Moves {
    pub(super) lanes: u32,
    pub(super) each: [Move; 32],
    /// The lane's group that it belongs to.
    pub(super) groups: [u32; 32],
}

/// What is written when an mbarrier is asked.
pub(super) enum What {
    Tile {
        map: TensorMap,
        row: i64,
        column: i64,
        to: usize,
    },
    Bytes {
        data: [u32; 4],
        len: usize,
        to: usize,
    },
    /// An arrival after copies.
    Arrival {
        moves: Vec<Move>,
        warp: usize,
    },
}

/// What is written to a block's shared memory, and the mbarrier that counts it.
pub(super) struct Later {
    pub(super) block: usize,
    pub(super) mbarrier: usize,
    pub(super) what: What,
}

/// Does one lane's copy.
pub(super) fn perform(moved: &Move, found: &mut Found, shared: &mut [u8]) -> Result<(), String> {
    let (to, bytes) = (moved.to as usize, usize::from(moved.bytes));
    let place = shared.get_mut(to..to + bytes).ok_or_else(|| outside(to, bytes))?;
    place.fill(0);
    if moved.read > 0 {
        if !found.holds(moved.from, moved.read.into()) {
            return Err(format!(
                "cp.async of {} bytes at {:#x}, in no allocation",
                moved.read, moved.from
            ));
        }
        let from = std::ptr::with_exposed_provenance::<u8>(moved.from as usize);
        let source: [u32; 4] = if moved.read == moved.bytes {
            // SAFETY: within an allocation, as was just found, and aligned, as was seen when the copy was asked for.
            unsafe { access::read(from, bytes) }
        } else {
            let mut source = [0_u8; 16];
            for (i, byte) in source[..moved.read.into()].iter_mut().enumerate() {
                // SAFETY: within an allocation, as was just found.
                *byte = unsafe { from.add(i).read_volatile() };
            }
            access::words_of(&source)
        };
        place.copy_from_slice(&access::bytes_of(&source)[..bytes]);
    }
    Ok(())
}

fn outside(to: usize, bytes: usize) -> String {
    format!("{bytes} bytes at {to:#x}, outside of shared memory")
}

impl Cluster {
    /// Does all that an mbarrier of a block waits for.
    pub(super) fn perform_for(
        &mut self,
        found: &mut Found,
        block: usize,
        mbarrier: usize,
    ) -> Result<bool, String> {
        self.perform_those(found, |later| later.block == block && later.mbarrier == mbarrier)
    }

    /// Does the copies that a warp has asked for and that an mbarrier was to count.
    pub(super) fn perform_arrivals(&mut self, found: &mut Found, warp: usize) -> Result<bool, String> {
        self.perform_those(
            found,
            |later| matches!(later.what, What::Arrival { warp: other, .. } if other == warp),
        )
    }

    fn perform_those(&mut self, found: &mut Found, which: impl Fn(&Later) -> bool) -> Result<bool, String> {
        if !self.later.iter().any(&which) {
            return Ok(false);
        }
        let all = std::mem::take(&mut self.later);
        let (now, still): (Vec<_>, Vec<_>) = all.into_iter().partition(which);
        self.later = still;
        for later in now {
            self.perform(found, later)?;
        }
        Ok(true)
    }

    fn perform(&mut self, found: &mut Found, later: Later) -> Result<(), String> {
        let shared = &mut self.shared[later.block];
        let bytes = match later.what {
            What::Tile { map, row, column, to } => {
                let tile = map.tile((row, column), to);
                let tile =
                    tile.map_err(|address| format!("a tile's row at {address:#x}, in no allocation"))?;
                let place = shared.bytes_mut().get_mut(to..to + tile.len());
                place
                    .ok_or_else(|| outside(to, tile.len()))?
                    .copy_from_slice(&tile);
                tile.len()
            }
            What::Bytes { data, len, to } => {
                let place = shared.bytes_mut().get_mut(to..to + len);
                let place = place.ok_or_else(|| outside(to, len))?;
                place.copy_from_slice(&access::bytes_of(&data)[..len]);
                len
            }
            What::Arrival { moves, .. } => {
                for moved in &moves {
                    perform(moved, found, shared.bytes_mut())?;
                }
                return self.mbarrier(later.block, later.mbarrier, |mbarrier| mbarrier.arrive(1));
            }
        };
        self.mbarrier(later.block, later.mbarrier, |mbarrier| {
            mbarrier.expect(-(bytes as i64))
        })
    }

    /// Changes an mbarrier in a block's shared memory.
    pub(super) fn mbarrier(
        &mut self,
        block: usize,
        at: usize,
        change: impl FnOnce(&mut Mbarrier) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut mbarrier = self.read_mbarrier(block, at)?;
        change(&mut mbarrier)?;
        self.write_mbarrier(block, at, mbarrier)
    }

    pub(super) fn read_mbarrier(&self, block: usize, at: usize) -> Result<Mbarrier, String> {
        let bytes = self.shared[block].bytes().get(at..at + 8);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        Mbarrier::from_bits(u64::from_le_bytes(bytes.ok_or_else(|| outside(at, 8))?))
    }

    pub(super) fn write_mbarrier(
        &mut self,
        block: usize,
        at: usize,
        mbarrier: Mbarrier,
    ) -> Result<(), String> {
        let place = self.shared[block].bytes_mut().get_mut(at..at + 8);
        let place = place.ok_or_else(|| outside(at, 8))?;
        place.copy_from_slice(&mbarrier.bits().to_le_bytes());
        Ok(())
    }
}
