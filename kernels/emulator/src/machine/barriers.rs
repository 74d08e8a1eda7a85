//! Barriers: of a block, of a cluster, and those that lie in shared memory.

/// Numbered barriers of a block.
pub(super) const BARRIERS: usize = 16;

/// Which lanes of a cluster's warps run, and which are held at barriers.
pub(super) struct Board {
    warps_per_block: usize,
    /// Lanes that have not ended, by warp.
    live: Vec<u32>,
    /// Lanes held at a barrier of their block.
    held: Vec<u32>,
    /// Lanes that have arrived at the cluster's barrier and may not pass it yet.
    arrived: Vec<u32>,
    /// Lanes at each barrier, by block, number and warp.
    at: Vec<u32>,
    /// How many threads each barrier waits for, if not for all of its block.
    expected: Vec<Option<u32>>,
}

impl Board {
    pub(super) fn new(blocks: usize, live_in_block: &[u32]) -> Self {
        let warps = live_in_block.len();
        Self {
            warps_per_block: warps,
            live: live_in_block.repeat(blocks),
            held: vec![0; blocks * warps],
            arrived: vec![0; blocks * warps],
            at: vec![0; blocks * BARRIERS * warps],
            expected: vec![None; blocks * BARRIERS],
        }
    }

    pub(super) fn live(&self, warp: usize) -> u32 {
        self.live[warp]
    }

    /// Whether a block has a thread that has not ended.
    pub(super) fn block_runs(&self, block: usize) -> bool {
        let first = block * self.warps_per_block;
        self.live[first..first + self.warps_per_block]
            .iter()
            .any(|&live| live != 0)
    }

    /// Lanes of a warp that wait at a barrier of their block.
    pub(super) fn held(&self, warp: usize) -> u32 {
        self.held[warp]
    }

    /// Lanes of a warp that may not pass the cluster's barrier.
    pub(super) fn before_cluster(&self, warp: usize) -> u32 {
        self.arrived[warp]
    }

    /// Lanes of a warp come to a barrier of their block.
    pub(super) fn sync(&mut self, warp: usize, lanes: u32, id: usize, threads: Option<u32>) {
        let (block, place) = (warp / self.warps_per_block, warp % self.warps_per_block);
        let barrier = block * BARRIERS + id;
        self.at[barrier * self.warps_per_block + place] |= lanes;
        self.held[warp] |= lanes;
        self.expected[barrier] = threads;
        self.release(block, id);
    }

    /// Lets a barrier's threads go on if all are there.
    fn release(&mut self, block: usize, id: usize) {
        let warps = self.warps_per_block;
        let barrier = block * BARRIERS + id;
        let live = &self.live[block * warps..][..warps];
        let at = &self.at[barrier * warps..][..warps];
        let full = match self.expected[barrier] {
            None => live.iter().zip(at).all(|(live, at)| live & !at == 0),
            Some(threads) => {
                // Threads that have ended count with those of their warp.
                let of_warp = |(live, at): (&u32, &u32)| {
                    if *at == 0 {
                        0
                    } else {
                        at.count_ones() + (!live).count_ones()
                    }
                };
                live.iter().zip(at).map(of_warp).sum::<u32>() >= threads
            }
        };
        if full {
            for place in 0..warps {
                let at = std::mem::take(&mut self.at[barrier * warps + place]);
                self.held[block * warps + place] &= !at;
            }
        }
    }

    /// Lanes of a warp arrive at the cluster's barrier; false if one has done so before, and not waited.
    pub(super) fn arrive(&mut self, warp: usize, lanes: u32) -> bool {
        let first = self.arrived[warp] & lanes == 0;
        self.arrived[warp] |= lanes;
        self.release_cluster();
        first
    }

    fn release_cluster(&mut self) {
        if self
            .live
            .iter()
            .zip(&self.arrived)
            .all(|(live, arrived)| live & !arrived == 0)
        {
            self.arrived.fill(0);
        }
    }

    /// Lanes of a warp end.
    pub(super) fn end(&mut self, warp: usize, lanes: u32) {
        self.live[warp] &= !lanes;
        let block = warp / self.warps_per_block;
        for id in 0..BARRIERS {
            let first = (block * BARRIERS + id) * self.warps_per_block;
            if self.at[first..first + self.warps_per_block]
                .iter()
                .any(|&at| at != 0)
            {
                self.release(block, id);
            }
        }
        self.release_cluster();
    }
}

/// An mbarrier as it lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mbarrier {
    /// Parity of the phase that is not complete.
    phase: u64,
    expected: u32,
    pending: u32,
    /// Bytes announced and not yet written; below zero if written before announced.
    bytes: i32,
}

/// Counts have 20 bits.
const COUNT: u32 = (1 << 20) - 1;

impl Mbarrier {
    pub(super) fn new(count: u32) -> Result<Self, String> {
        if count == 0 || count > COUNT {
            return Err(format!("mbarrier for {count} arrivals"));
        }
        Ok(Self {
            phase: 0,
            expected: count,
            pending: count,
            bytes: 0,
        })
    }

    pub(super) fn from_bits(bits: u64) -> Result<Self, String> {
        let field = |first: u32, bits_wide: u32| (bits >> first) as u32 & ((1 << bits_wide) - 1);
        let mbarrier = Self {
            phase: bits & 1,
            expected: field(1, 20),
            pending: field(21, 20),
            bytes: field(41, 22) as i32 - (1 << 21),
        };
        if bits >> 63 != 0 || mbarrier.expected == 0 || mbarrier.pending > mbarrier.expected {
            return Err("an mbarrier that was not initialised".to_owned());
        }
        Ok(mbarrier)
    }

    pub(super) fn bits(self) -> u64 {
        let bytes = (self.bytes + (1 << 21)) as u64;
        self.phase | u64::from(self.expected) << 1 | u64::from(self.pending) << 21 | bytes << 41
    }

    pub(super) fn arrive(&mut self, count: u32) -> Result<(), String> {
        if count > self.pending {
            let pending = self.pending;
            return Err(format!(
                "{count} arrivals at an mbarrier that waits for {pending}"
            ));
        }
        self.pending -= count;
        self.complete();
        Ok(())
    }

    /// More bytes to wait for; fewer as they are written.
    pub(super) fn expect(&mut self, bytes: i64) -> Result<(), String> {
        let sum = i64::from(self.bytes) + bytes;
        if sum.unsigned_abs() > COUNT.into() {
            return Err(format!("{sum} bytes that an mbarrier waits for"));
        }
        self.bytes = sum as i32;
        self.complete();
        Ok(())
    }

    fn complete(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase ^= 1;
            self.pending = self.expected;
        }
    }

    /// Whether the phase of this parity is complete.
    pub(super) fn is_complete(self, parity: u32) -> bool {
        self.phase != u64::from(parity & 1)
    }
}
