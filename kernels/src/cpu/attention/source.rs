//! Where keys and values come from.

use crate::{
    cpu::{
        KvSide,
        attention::element::Element,
        kv_cache::CpuKvCache,
        lanes::{LANES, Lanes},
    },
    ops::HeadLayout,
};

/// Keys and values of the sequences of a launch.
pub(super) trait Source: Sync {
    type E: Element;

    /// The keys `(head_dim, 16)` and values `(16, head_dim)` of the sixteen positions from `position`, a
    /// multiple of sixteen, or `None` if they are not stored like that.
    fn in_place(&self, seq: usize, kv_head: usize, position: usize) -> Option<[*const Self::E; 2]>;

    /// Distance between the rows of the keys, and of the values, that [`Self::in_place`] gives.
    fn strides(&self) -> (usize, usize);

    /// Copies the keys and values of the positions from `position` to `to.limit`, sixteen at most.
    fn copy<S: Lanes>(&self, s: S, at: (usize, usize, usize), to: GroupCopy<'_>);
}

/// Room for the keys and values of sixteen positions.
pub(super) struct GroupCopy<'a> {
    /// `(head_dim, 16)`.
    pub(super) keys: &'a mut [f32],
    /// `(16, width)`, at least `head_dim` wide.
    pub(super) values: &'a mut [f32],
    /// No position from here on is read.
    pub(super) limit: usize,
}

/// The paged cache.
pub(super) struct Paged<'a, E> {
    pub(super) cache: &'a CpuKvCache,
    pub(super) elements: &'a [E],
    pub(super) layer: usize,
    /// `(num_seqs, max_blocks)`, checked.
    pub(super) block_tables: &'a [u32],
    pub(super) max_blocks: usize,
}

impl<E> Paged<'_, E> {
    fn block(&self, seq: usize, position: usize) -> (usize, usize) {
        let block_size = self.cache.layout().block_size;
        let block = self.block_tables[seq * self.max_blocks + position / block_size];
        (block as usize, position % block_size)
    }
}

impl<E: Element> Source for Paged<'_, E> {
    type E = E;

    #[inline(always)]
    fn in_place(&self, seq: usize, kv_head: usize, position: usize) -> Option<[*const E; 2]> {
        let layout = self.cache.layout();
        if !layout.block_size.is_multiple_of(LANES) || !layout.head_dim.is_multiple_of(LANES) {
            return None;
        }
        let (block, offset) = self.block(seq, position);
        let keys = self.cache.block_range(self.layer, KvSide::Key, block, kv_head);
        let values = self.cache.block_range(self.layer, KvSide::Value, block, kv_head);
        Some([
            self.elements[keys][offset..].as_ptr(),
            self.elements[values][offset * layout.head_dim..].as_ptr(),
        ])
    }

    fn strides(&self) -> (usize, usize) {
        (self.cache.layout().block_size, self.cache.layout().head_dim)
    }

    #[inline(always)]
    fn copy<S: Lanes>(&self, s: S, at: (usize, usize, usize), to: GroupCopy<'_>) {
        let (seq, kv_head, position) = at;
        let head_dim = self.cache.layout().head_dim;
        let block_size = self.cache.layout().block_size;
        if block_size.is_multiple_of(LANES) && head_dim.is_multiple_of(LANES) {
            let (block, offset) = self.block(seq, position);
            let keys = &self.elements[self.cache.block_range(self.layer, KvSide::Key, block, kv_head)];
            for (d, to) in to.keys.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let from = keys[d * block_size + offset..].as_chunks().0;
                s.store(E::load(s, &from[0]), to);
            }
            let values = &self.elements[self.cache.block_range(self.layer, KvSide::Value, block, kv_head)];
            let values = values[offset * head_dim..].as_chunks().0;
            for (from, to) in values.iter().zip(to.values.as_chunks_mut().0) {
                s.store(E::load(s, from), to);
            }
            return;
        }
        let width = to.values.len() / LANES;
        for position in position..to.limit.min(position + LANES) {
            let (block, offset) = self.block(seq, position);
            let slot = block * block_size + offset;
            let (key, key_stride) = self.cache.slot(self.layer, KvSide::Key, slot, kv_head);
            let (value, _) = self.cache.slot(self.layer, KvSide::Value, slot, kv_head);
            let lane = position % LANES;
            for d in 0..head_dim {
                to.keys[d * LANES + lane] = self.elements[key + d * key_stride].to_f32();
                to.values[lane * width + d] = self.elements[value + d].to_f32();
            }
        }
    }
}

/// Rows of the fused projection themselves.
pub(super) struct Rows<'a> {
    /// `(rows, qkv_width)`.
    pub(super) qkv: &'a [f32],
    pub(super) heads: HeadLayout,
    /// First row of each sequence, checked.
    pub(super) cu_seqlens: &'a [u32],
}

impl Source for Rows<'_> {
    type E = f32;

    fn in_place(&self, _: usize, _: usize, _: usize) -> Option<[*const f32; 2]> {
        None
    }

    fn strides(&self) -> (usize, usize) {
        (0, 0)
    }

    #[inline(always)]
    fn copy<S: Lanes>(&self, s: S, at: (usize, usize, usize), to: GroupCopy<'_>) {
        let (seq, kv_head, position) = at;
        let HeadLayout { head_dim, .. } = self.heads;
        let width = to.values.len() / LANES;
        for position in position..to.limit.min(position + LANES) {
            let row = self.cu_seqlens[seq] as usize + position;
            let key = row * self.heads.qkv_width() + self.heads.q_width() + kv_head * head_dim;
            let keys = &self.qkv[key..][..head_dim];
            let values = &self.qkv[key + self.heads.kv_width()..][..head_dim];
            // Rows are pages apart, where the processor does not look ahead itself: ask for the next group's.
            let ahead = self
                .qkv
                .as_ptr()
                .wrapping_add(key + LANES * self.heads.qkv_width());
            for line in (0..head_dim).step_by(LANES) {
                s.prefetch(ahead.wrapping_add(line).cast());
                s.prefetch(ahead.wrapping_add(line + self.heads.kv_width()).cast());
            }
            let lane = position % LANES;
            for (to, from) in to.keys.as_chunks_mut::<LANES>().0.iter_mut().zip(keys) {
                to[lane] = *from;
            }
            to.values[lane * width..][..head_dim].copy_from_slice(values);
        }
    }
}
