//! Which blocks hold keys and values that a later prompt may share.

use std::collections::HashMap;

use ferrum_engine::KvEvent;
use sha2::{Digest, Sha256};

use crate::block_pool::{BLOCK_SIZE, BlockId};

/// The ids of a full block.
pub type BlockTokens = [u32; BLOCK_SIZE];

/// Full blocks, found by the block before them and their own ids.
///
/// The lookup compares ids, not hashes, so that no collision can give a request another prompt's keys and
/// values. The 64-bit chain hash only names a block in [`KvEvent`]s.
///
/// Invariant: the block before a cached block is cached too. It holds because whoever holds a cached block
/// holds the blocks before it (the same, by [`Insert::Existing`]), and lets go of the later ones first: in
/// the order of reuse a block is always behind the blocks that follow it in a prompt.
#[derive(Debug, Default)]
pub struct PrefixCache {
    blocks: HashMap<(Option<BlockId>, BlockTokens), BlockId>,
    entries: HashMap<BlockId, Entry>,
    events: Vec<KvEvent>,
}

/// What became of a full block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Another block has the same content already: use that one.
    Existing(BlockId),
    /// It is cached now.
    Stored,
}

#[derive(Debug)]
struct Entry {
    parent: Option<BlockId>,
    tokens: BlockTokens,
    hash: u64,
}

impl PrefixCache {
    /// The cached block with `tokens` after the cached block `parent`.
    pub fn find(&self, parent: Option<BlockId>, tokens: &BlockTokens) -> Option<BlockId> {
        self.blocks.get(&(parent, *tokens)).copied()
    }

    /// Caches the full block `block` after the cached block `parent`.
    ///
    /// # Panics
    /// If `parent` is not cached.
    pub fn insert(&mut self, parent: Option<BlockId>, tokens: &BlockTokens, block: BlockId) -> Insert {
        if let Some(existing) = self.find(parent, tokens) {
            return Insert::Existing(existing);
        }
        let parent_hash = parent.map(|parent| {
            self.entries
                .get(&parent)
                .expect("the block before it is cached")
                .hash
        });
        let hash = chain_hash(parent_hash, tokens);
        self.blocks.insert((parent, *tokens), block);
        self.entries.insert(
            block,
            Entry {
                parent,
                tokens: *tokens,
                hash,
            },
        );
        self.events.push(KvEvent::Stored {
            hash,
            parent: parent_hash,
            tokens: tokens.to_vec(),
        });
        Insert::Stored
    }

    /// Whether `block` can be found.
    pub fn contains(&self, block: BlockId) -> bool {
        self.entries.contains_key(&block)
    }

    /// Forgets `block`, which is about to be overwritten. Does nothing if it is not cached.
    pub fn evict(&mut self, block: BlockId) {
        if let Some(Entry { parent, tokens, hash }) = self.entries.remove(&block) {
            self.blocks.remove(&(parent, tokens));
            self.events.push(KvEvent::Evicted { hash });
        }
    }

    /// Cached blocks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The changes since the last call, in order.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.events)
    }

    /// Checks both directions of the index, and the invariant.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_integrity(&self) -> Result<(), String> {
        if self.blocks.len() != self.entries.len() {
            return Err(format!(
                "{} keys for {} cached blocks",
                self.blocks.len(),
                self.entries.len()
            ));
        }
        for (&block, entry) in &self.entries {
            if self.find(entry.parent, &entry.tokens) != Some(block) {
                return Err(format!("cached block {block} is not found by its content"));
            }
            let parent_hash = match entry.parent {
                Some(parent) => match self.entries.get(&parent) {
                    Some(parent) => Some(parent.hash),
                    None => {
                        return Err(format!(
                            "block {block} is cached, block {parent} before it is not"
                        ));
                    }
                },
                None => None,
            };
            if chain_hash(parent_hash, &entry.tokens) != entry.hash {
                return Err(format!("block {block} has a wrong hash"));
            }
        }
        Ok(())
    }
}

/// The first 8 bytes (little endian) of SHA-256 over the parent's hash (8 bytes, 0 for none) and the ids (4
/// bytes each): the same on every machine and in every version.
fn chain_hash(parent: Option<u64>, tokens: &BlockTokens) -> u64 {
    let mut sha = Sha256::new();
    sha.update(parent.unwrap_or(0).to_le_bytes());
    for token in tokens {
        sha.update(token.to_le_bytes());
    }
    let digest = sha.finalize();
    digest
        .iter()
        .take(8)
        .rev()
        .fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_only_after_the_same_block() {
        let mut cache = PrefixCache::default();
        assert_eq!(cache.insert(None, &[1; 16], 4), Insert::Stored);
        assert_eq!(cache.insert(Some(4), &[2; 16], 7), Insert::Stored);
        assert_eq!(cache.find(Some(4), &[2; 16]), Some(7));
        assert_eq!(cache.find(None, &[2; 16]), None);
        assert_eq!(cache.insert(None, &[1; 16], 9), Insert::Existing(4));
        cache.check_integrity().expect("sound");
    }

    #[test]
    fn events_name_each_block_by_the_chain_before_it() {
        let mut cache = PrefixCache::default();
        cache.insert(None, &[1; 16], 0);
        cache.insert(Some(0), &[1; 16], 1);
        cache.evict(1);
        cache.evict(1);
        let first = chain_hash(None, &[1; 16]);
        let second = chain_hash(Some(first), &[1; 16]);
        assert_ne!(first, second);
        assert_eq!(
            cache.take_events(),
            [
                KvEvent::Stored {
                    hash: first,
                    parent: None,
                    tokens: vec![1; 16]
                },
                KvEvent::Stored {
                    hash: second,
                    parent: Some(first),
                    tokens: vec![1; 16]
                },
                KvEvent::Evicted { hash: second },
            ]
        );
        assert!(cache.take_events().is_empty());
    }

    #[test]
    fn the_hash_is_the_same_on_every_machine() {
        // Python: hashlib.sha256(bytes(8) + b"".join(struct.pack("<I", i) for i in range(16))).digest()[:8]
        let tokens: BlockTokens = std::array::from_fn(|index| u32::try_from(index).expect("small"));
        assert_eq!(chain_hash(None, &tokens).to_le_bytes(), EXPECTED);
    }

    const EXPECTED: [u8; 8] = [0x26, 0xcd, 0x50, 0xf6, 0xe3, 0x3d, 0x71, 0x9a];
}
