//! Which prompt blocks a real engine would still hold: hash chains of full blocks, least recently used first out.

use std::collections::{BTreeMap, HashMap};

use ferrum_engine::KvEvent;

use crate::text::hash_ids;

/// Tokens a block.
pub(crate) const BLOCK_SIZE: usize = 16;

pub(crate) struct PrefixCache {
    capacity: usize,
    /// Time of the last use of each block, and the reverse.
    by_hash: HashMap<u64, u64>,
    by_time: BTreeMap<u64, u64>,
    clock: u64,
}

impl PrefixCache {
    /// Holds at most `capacity` blocks; 0 caches nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            by_hash: HashMap::new(),
            by_time: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Reads `prompt` in: tokens found at its start, and what changed. At least one token is always computed.
    pub(crate) fn insert(&mut self, prompt: &[u32]) -> (usize, Vec<KvEvent>) {
        let mut events = Vec::new();
        let mut hits = 0;
        let mut parent = None;
        for (index, tokens) in prompt.chunks_exact(BLOCK_SIZE).enumerate().take(self.capacity) {
            let hash = hash_ids(parent.unwrap_or(0), tokens);
            if self.touch(hash) {
                hits += usize::from(hits == index);
            } else {
                let tokens = tokens.to_vec();
                events.push(KvEvent::Stored { hash, parent, tokens });
            }
            parent = Some(hash);
        }
        while self.by_hash.len() > self.capacity {
            let Some((_, hash)) = self.by_time.pop_first() else {
                break;
            };
            self.by_hash.remove(&hash);
            events.push(KvEvent::Evicted { hash });
        }
        let cached = hits.min(prompt.len().saturating_sub(1) / BLOCK_SIZE) * BLOCK_SIZE;
        (cached, events)
    }

    /// Marks a block as used now; true if it was there.
    fn touch(&mut self, hash: u64) -> bool {
        self.clock += 1;
        self.by_time.insert(self.clock, hash);
        match self.by_hash.insert(hash, self.clock) {
            Some(before) => self.by_time.remove(&before).is_some(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_prefix_is_found_and_its_last_token_is_computed() {
        let mut cache = PrefixCache::new(8);
        let prompt: Vec<u32> = (0..32).collect();
        let (cached, events) = cache.insert(&prompt);
        assert_eq!((cached, events.len()), (0, 2));
        let (cached, events) = cache.insert(&prompt);
        assert_eq!((cached, events.len()), (16, 0));
        let longer: Vec<u32> = (0..40).collect();
        assert_eq!(cache.insert(&longer).0, 32);
    }

    #[test]
    fn the_oldest_block_leaves_first() {
        let mut cache = PrefixCache::new(1);
        let (_, first) = cache.insert(&[1; 16]);
        let (_, second) = cache.insert(&[2; 16]);
        let KvEvent::Stored { hash, .. } = first[0] else {
            panic!("{first:?}")
        };
        assert_eq!(second[1], KvEvent::Evicted { hash });
    }
}
