//! The blocks of the KV cache: who holds them, and which is given out next.

/// Tokens a block.
pub const BLOCK_SIZE: usize = 16;

/// Index of a block in the pool.
pub type BlockId = u32;

/// Blocks that `tokens` cached tokens fill, the last one perhaps in part.
pub const fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_SIZE)
}

/// Reference counts, and a free list in the order of reuse (least recently used first).
///
/// A reservation is a promise of a block that is not chosen yet: the free list is always at least as long
/// as what was promised, so that [`Self::take_reserved`] cannot fail. Choosing late keeps cached blocks
/// findable for longer.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    first_free: Option<BlockId>,
    last_free: Option<BlockId>,
    num_free: usize,
    num_reserved: usize,
}

/// Where a block that nobody holds goes in the free list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// To the front: it holds nothing that can be found again.
    First,
    /// To the back: its content is cached.
    Last,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    ref_count: u32,
    /// Neighbours in the free list; meaningless while the block is held.
    previous: Option<BlockId>,
    next: Option<BlockId>,
}

impl BlockPool {
    /// A pool of free blocks.
    ///
    /// # Panics
    /// If `num_blocks` is not a `u32`.
    pub fn new(num_blocks: usize) -> Self {
        let ids = u32::try_from(num_blocks).expect("block ids are u32: launch bounds the pool");
        let mut pool = Self {
            blocks: vec![Block::default(); num_blocks],
            first_free: None,
            last_free: None,
            num_free: 0,
            num_reserved: 0,
        };
        (0..ids).for_each(|block| pool.link_last(block));
        pool
    }

    /// Blocks in all.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds and that nobody was promised.
    pub fn num_available(&self) -> usize {
        self.num_free - self.num_reserved
    }

    /// Holders of `block`.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.blocks[block as usize].ref_count
    }

    /// Promises `count` blocks.
    ///
    /// # Panics
    /// If fewer are available.
    pub fn reserve(&mut self, count: usize) {
        assert!(
            count <= self.num_available(),
            "reserving {count} of {} blocks",
            self.num_available()
        );
        self.num_reserved += count;
    }

    /// Takes a promise of `count` blocks back.
    ///
    /// # Panics
    /// If fewer were promised.
    pub fn unreserve(&mut self, count: usize) {
        assert!(count <= self.num_reserved, "more blocks given back than promised");
        self.num_reserved -= count;
    }

    /// Turns one promise into the block that is next in the order of reuse, held once.
    ///
    /// # Panics
    /// If nothing was promised.
    pub fn take_reserved(&mut self) -> BlockId {
        self.unreserve(1);
        let block = self.first_free.expect("as many blocks are free as were promised");
        self.acquire(block);
        block
    }

    /// One more holder. A block that nobody held leaves the free list; the caller has made sure that it was
    /// not promised.
    pub fn acquire(&mut self, block: BlockId) {
        if self.ref_count(block) == 0 {
            self.unlink(block);
        }
        self.blocks[block as usize].ref_count += 1;
    }

    /// One holder less. The last one's block goes into the free list, where `reuse` says.
    ///
    /// # Panics
    /// If nobody held it.
    pub fn release(&mut self, block: BlockId, reuse: Reuse) {
        let count = &mut self.blocks[block as usize].ref_count;
        *count = count.checked_sub(1).expect("a block is released by its holder");
        if *count == 0 {
            match reuse {
                Reuse::First => self.link_first(block),
                Reuse::Last => self.link_last(block),
            }
        }
    }

    /// Free blocks, the next to be reused first.
    pub fn free_blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        std::iter::successors(self.first_free, |&block| self.blocks[block as usize].next)
    }

    /// Checks the free list against the counts.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_integrity(&self) -> Result<(), String> {
        let mut listed = 0;
        let mut previous = None;
        // One more than the pool holds is enough to notice a cycle.
        for block in self.free_blocks().take(self.num_blocks() + 1) {
            if self.ref_count(block) != 0 {
                return Err(format!(
                    "block {block} is free and held {} times",
                    self.ref_count(block)
                ));
            }
            if self.blocks[block as usize].previous != previous {
                return Err(format!("block {block} has a wrong neighbour in the free list"));
            }
            previous = Some(block);
            listed += 1;
        }
        let unheld = self.blocks.iter().filter(|block| block.ref_count == 0).count();
        if listed != self.num_free || unheld != self.num_free || self.last_free != previous {
            return Err(format!(
                "{listed} blocks in the free list, {unheld} not held, {} counted",
                self.num_free
            ));
        }
        if self.num_reserved > self.num_free {
            return Err(format!(
                "{} blocks promised, {} free",
                self.num_reserved, self.num_free
            ));
        }
        Ok(())
    }

    /// Blocks promised and not chosen yet.
    pub fn num_reserved(&self) -> usize {
        self.num_reserved
    }

    fn link_first(&mut self, block: BlockId) {
        let next = self.first_free.replace(block);
        self.blocks[block as usize].previous = None;
        self.blocks[block as usize].next = next;
        match next {
            Some(next) => self.blocks[next as usize].previous = Some(block),
            None => self.last_free = Some(block),
        }
        self.num_free += 1;
    }

    fn link_last(&mut self, block: BlockId) {
        let previous = self.last_free.replace(block);
        self.blocks[block as usize].previous = previous;
        self.blocks[block as usize].next = None;
        match previous {
            Some(previous) => self.blocks[previous as usize].next = Some(block),
            None => self.first_free = Some(block),
        }
        self.num_free += 1;
    }

    fn unlink(&mut self, block: BlockId) {
        let Block { previous, next, .. } = self.blocks[block as usize];
        match previous {
            Some(previous) => self.blocks[previous as usize].next = next,
            None => self.first_free = next,
        }
        match next {
            Some(next) => self.blocks[next as usize].previous = previous,
            None => self.last_free = previous,
        }
        self.num_free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_reused_in_the_order_in_which_they_were_released() {
        let mut pool = BlockPool::new(3);
        pool.reserve(3);
        let taken: Vec<_> = (0..3).map(|_| pool.take_reserved()).collect();
        assert_eq!(taken, [0, 1, 2]);
        pool.release(1, Reuse::Last);
        pool.release(0, Reuse::Last);
        pool.release(2, Reuse::First);
        assert_eq!(pool.free_blocks().collect::<Vec<_>>(), [2, 1, 0]);
        pool.check_integrity().expect("sound");
    }

    #[test]
    fn a_shared_block_is_free_only_after_its_last_holder() {
        let mut pool = BlockPool::new(1);
        pool.reserve(1);
        let block = pool.take_reserved();
        pool.acquire(block);
        pool.release(block, Reuse::Last);
        assert_eq!(pool.num_available(), 0);
        pool.release(block, Reuse::Last);
        assert_eq!(pool.num_available(), 1);
        pool.check_integrity().expect("sound");
    }

    #[test]
    fn what_was_promised_is_not_available() {
        let mut pool = BlockPool::new(4);
        pool.reserve(3);
        assert_eq!(pool.num_available(), 1);
        pool.take_reserved();
        assert_eq!(pool.num_available(), 1);
        pool.unreserve(2);
        assert_eq!(pool.num_available(), 3);
    }
}
