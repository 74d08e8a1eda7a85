//! The blocks of each sequence: reserved at admission, chosen when a token needs them, shared where a
//! prefix is already cached.

use ferrum_engine::KvEvent;

use crate::{
    block_pool::{BLOCK_SIZE, BlockId, BlockPool, Reuse, blocks_for},
    prefix_cache::{BlockTokens, Insert, PrefixCache},
};

/// A pool and, if wanted, the index of what its blocks hold. Pure: it knows ids, not memory.
#[derive(Debug)]
pub struct KvCache {
    pool: BlockPool,
    prefix: Option<PrefixCache>,
}

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub struct BlockTable {
    /// In the order of positions.
    blocks: Vec<BlockId>,
    /// Promised by the pool, not chosen yet.
    reserved: usize,
    /// How many blocks, from the first, are in the prefix cache.
    cached: usize,
}

impl BlockTable {
    /// The blocks, in the order of positions.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens that its blocks can hold.
    pub fn num_tokens(&self) -> usize {
        self.blocks.len() * BLOCK_SIZE
    }

    /// Slot of the token at `position`: block * block size + offset.
    pub fn slot(&self, position: usize) -> u32 {
        let offset = u32::try_from(position % BLOCK_SIZE).expect("below 16");
        self.blocks[position / BLOCK_SIZE] * BLOCK_SIZE as u32 + offset
    }
}

impl KvCache {
    /// Room for `num_blocks` blocks, all free; prefixes are shared if `prefix_caching`.
    pub fn new(num_blocks: usize, prefix_caching: bool) -> Self {
        Self {
            pool: BlockPool::new(num_blocks),
            prefix: prefix_caching.then(PrefixCache::default),
        }
    }

    /// The pool, to look at.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Takes a sequence in: shares the cached blocks of `tokens` and reserves the rest of `num_tokens` cached
    /// tokens. `None`, with nothing changed, while there is no room.
    ///
    /// At least the last of `tokens` is left to compute, as its logits are wanted.
    pub fn admit(&mut self, tokens: &[u32], num_tokens: usize) -> Option<BlockTable> {
        let shared = self.cached_after(&[], tokens);
        let needed = blocks_for(num_tokens) - shared.len();
        // A cached block that nobody holds leaves the free list as well.
        let unheld = shared
            .iter()
            .filter(|&&block| self.pool.ref_count(block) == 0)
            .count();
        if needed + unheld > self.pool.num_available() {
            return None;
        }
        shared.iter().for_each(|&block| self.pool.acquire(block));
        self.pool.reserve(needed);
        Some(BlockTable {
            cached: shared.len(),
            blocks: shared,
            reserved: needed,
        })
    }

    /// Shares what other sequences have cached of `tokens` since admission, from the block where `table` ends.
    /// Returns the tokens that need no computing any more.
    pub fn share(&mut self, table: &mut BlockTable, tokens: &[u32]) -> usize {
        if table.cached != table.blocks.len() {
            return 0;
        }
        let shared = self.cached_after(&table.blocks, tokens);
        for &block in &shared {
            // The promise covers a block that leaves the free list; one that is held needs none.
            self.pool.unreserve(1);
            self.pool.acquire(block);
        }
        table.reserved -= shared.len();
        table.cached += shared.len();
        table.blocks.extend_from_slice(&shared);
        shared.len() * BLOCK_SIZE
    }

    /// Chooses blocks until `table` holds `num_tokens` tokens; a block that was cached is evicted.
    ///
    /// # Panics
    /// Beyond what was reserved at admission.
    pub fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) {
        while table.blocks.len() < blocks_for(num_tokens) {
            table.reserved = table
                .reserved
                .checked_sub(1)
                .expect("admission reserved what a sequence can need");
            let block = self.pool.take_reserved();
            if let Some(prefix) = &mut self.prefix {
                prefix.evict(block);
            }
            table.blocks.push(block);
        }
    }

    /// Caches the blocks that the first `computed` of `tokens` have filled. A block that another sequence
    /// cached in the meantime replaces this sequence's own: the same ids give the same bits.
    pub fn cache_full_blocks(&mut self, table: &mut BlockTable, tokens: &[u32], computed: usize) {
        let Some(prefix) = &mut self.prefix else { return };
        for index in table.cached..computed / BLOCK_SIZE {
            let own = table.blocks[index];
            let parent = index.checked_sub(1).map(|before| table.blocks[before]);
            if let Insert::Existing(other) = prefix.insert(parent, block_tokens(tokens, index), own) {
                // In this order, as the other may have to leave a free list of which all is promised.
                self.pool.release(own, Reuse::First);
                self.pool.acquire(other);
                table.blocks[index] = other;
            }
            table.cached = index + 1;
        }
    }

    /// Lets go of a sequence's blocks and of what it had reserved.
    pub fn release(&mut self, table: BlockTable) {
        let BlockTable {
            blocks,
            reserved,
            cached: _,
        } = table;
        self.pool.unreserve(reserved);
        // The last first: a block is never reused before the blocks that follow it in a prompt.
        for &block in blocks.iter().rev() {
            let found_again = self.prefix.as_ref().is_some_and(|prefix| prefix.contains(block));
            self.pool
                .release(block, if found_again { Reuse::Last } else { Reuse::First });
        }
    }

    /// Changes of the prefix cache since the last call.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        self.prefix
            .as_mut()
            .map(PrefixCache::take_events)
            .unwrap_or_default()
    }

    /// Checks the pool and the index against each other and against all the tables there are.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), String> {
        let mut held = vec![0; self.pool.num_blocks()];
        let mut reserved = 0;
        for table in tables {
            reserved += table.reserved;
            for &block in &table.blocks {
                held[block as usize] += 1;
            }
            let uncached = table.blocks[..table.cached]
                .iter()
                .find(|&&block| !self.prefix.as_ref().is_some_and(|prefix| prefix.contains(block)));
            if let Some(block) = uncached {
                return Err(format!("block {block} of a sequence should be cached"));
            }
        }
        for (block, &held) in (0..).zip(&held) {
            if self.pool.ref_count(block) != held {
                let counted = self.pool.ref_count(block);
                return Err(format!(
                    "block {block} is held {held} times, counted {counted} times"
                ));
            }
        }
        if self.pool.num_reserved() != reserved {
            let promised = self.pool.num_reserved();
            return Err(format!(
                "{promised} blocks promised, sequences wait for {reserved}"
            ));
        }
        self.pool.check_integrity()?;
        self.prefix.as_ref().map_or(Ok(()), PrefixCache::check_integrity)
    }

    /// The cached blocks of `tokens` after `blocks`, all of which are cached.
    fn cached_after(&self, blocks: &[BlockId], tokens: &[u32]) -> Vec<BlockId> {
        let mut found = Vec::new();
        let Some(prefix) = &self.prefix else { return found };
        let mut parent = blocks.last().copied();
        for index in blocks.len()..tokens.len().saturating_sub(1) / BLOCK_SIZE {
            let Some(block) = prefix.find(parent, block_tokens(tokens, index)) else {
                break;
            };
            found.push(block);
            parent = Some(block);
        }
        found
    }
}

fn block_tokens(tokens: &[u32], index: usize) -> &BlockTokens {
    tokens[index * BLOCK_SIZE..]
        .first_chunk()
        .expect("the block is full")
}
