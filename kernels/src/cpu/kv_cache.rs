//! Memory of the paged KV cache.

use std::ops::Range;

use crate::{
    backend::{BackendError, KvDtype, KvLayout},
    cpu::{AlignedBuf, DEVICE, buffer},
};

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSide {
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// The elements, `(num_layers, num_blocks, 2, num_kv_heads, ..)`: of the keys of a block and head
/// `(head_dim, block_size)`, of the values `(block_size, head_dim)`.
///
/// Keys lie transposed so that one vector holds the same element of sixteen keys: scores of sixteen keys then
/// need no sum across lanes.
#[derive(Debug)]
pub enum KvStorage {
    /// As computed.
    F32(AlignedBuf<f32>),
    /// Bits of IEEE 754 half precision.
    F16(AlignedBuf<u16>),
}

/// Keys and values of all layers, in blocks. Blocks never written cost no memory.
#[derive(Debug)]
pub struct CpuKvCache {
    layout: KvLayout,
    /// The elements; [`Self::block_range`] and [`Self::slot`] say where.
    pub storage: KvStorage,
}

impl CpuKvCache {
    pub(super) fn alloc(layout: &KvLayout) -> Result<Self, BackendError> {
        let out_of_memory = |needed| BackendError::OutOfMemory {
            device: DEVICE,
            what: format!("a KV cache of {} blocks", layout.num_blocks),
            needed,
            available: buffer::available_memory_bytes(),
        };
        let bytes = layout
            .block_bytes()
            .checked_mul(layout.num_blocks)
            .ok_or_else(|| out_of_memory(usize::MAX))?;
        let storage = match layout.dtype {
            KvDtype::F32 => AlignedBuf::zeroed(bytes / 4).map(KvStorage::F32),
            KvDtype::F16 => AlignedBuf::zeroed(bytes / 2).map(KvStorage::F16),
        };
        Ok(Self {
            layout: *layout,
            storage: storage.ok_or_else(|| out_of_memory(bytes))?,
        })
    }

    /// The shape that this cache was allocated with.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Elements of one head in one block: keys `(head_dim, block_size)`, values `(block_size, head_dim)`.
    pub fn block_range(&self, layer: usize, side: KvSide, block: usize, head: usize) -> Range<usize> {
        let KvLayout {
            num_blocks,
            num_kv_heads,
            block_size,
            head_dim,
            ..
        } = self.layout;
        let side = match side {
            KvSide::Key => 0,
            KvSide::Value => 1,
        };
        let start = (((layer * num_blocks + block) * 2 + side) * num_kv_heads + head) * block_size * head_dim;
        start..start + block_size * head_dim
    }

    /// Where the first of the `head_dim` elements of the token in `slot = block * block_size + offset` is,
    /// and how far each is from the next.
    pub fn slot(&self, layer: usize, side: KvSide, slot: usize, head: usize) -> (usize, usize) {
        let KvLayout {
            block_size, head_dim, ..
        } = self.layout;
        let block = self.block_range(layer, side, slot / block_size, head);
        match side {
            KvSide::Key => (block.start + slot % block_size, block_size),
            KvSide::Value => (block.start + slot % block_size * head_dim, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{CpuKvCache, KvSide, KvStorage};
    use crate::backend::{KvDtype, KvLayout};

    #[test]
    fn slots_of_all_heads_and_layers_tile_the_cache() {
        let layout = KvLayout {
            num_layers: 2,
            num_kv_heads: 3,
            head_dim: 4,
            block_size: 2,
            num_blocks: 5,
            dtype: KvDtype::F16,
        };
        let cache = CpuKvCache::alloc(&layout).expect("memory for a small cache");
        let KvStorage::F16(elements) = &cache.storage else {
            panic!("f16 asked for");
        };
        let mut seen = HashSet::new();
        for layer in 0..2 {
            for side in [KvSide::Key, KvSide::Value] {
                for slot in 0..10 {
                    for head in 0..3 {
                        let (start, stride) = cache.slot(layer, side, slot, head);
                        assert!((0..4).all(|i| seen.insert(start + i * stride)));
                    }
                }
            }
        }
        assert_eq!(seen.len(), elements.len());
        assert_eq!(seen.into_iter().max(), Some(elements.len() - 1));
    }
}
