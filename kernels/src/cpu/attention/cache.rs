//! Writing keys and values into the paged cache.

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, KvSide,
        attention::element::Element,
        check_len,
        kv_cache::{CpuKvCache, KvStorage},
        lanes::{Kernel, LANES, Lanes},
        pool::SyncPtr,
        shape_error,
    },
    ops::HeadLayout,
};

/// Rows from which the heads are shared out to the threads.
const SHARE_FROM_ROWS: usize = 4;

/// See [`crate::ops::AttentionOps::write_kv`].
pub(super) fn write_kv(
    backend: &CpuBackend,
    qkv: &[f32],
    heads: HeadLayout,
    (cache, layer): (&mut CpuKvCache, usize),
    slots: &[u32],
) -> Result<(), BackendError> {
    check_cache(cache, layer, heads)?;
    check_len("write_kv: qkv", qkv.len(), slots.len() * heads.qkv_width())?;
    let num_slots = cache.layout().num_blocks * cache.layout().block_size;
    if let Some(&slot) = slots.iter().max()
        && slot as usize >= num_slots
    {
        return Err(shape_error(format!(
            "write_kv: slot {slot} of a cache of {num_slots}"
        )));
    }
    let elements = match &mut cache.storage {
        KvStorage::F32(elements) => Elements::F32(SyncPtr(elements.as_mut_ptr())),
        KvStorage::F16(elements) => Elements::F16(SyncPtr(elements.as_mut_ptr())),
    };
    let cache = &*cache;
    // Heads are shared out, not rows: two rows may name the same slot, two heads never meet.
    let write = |head: usize| {
        let at = (layer, head);
        // SAFETY: the cache is borrowed mutably, and this call alone writes this head.
        let rows = unsafe { HeadRows::new(qkv, heads, (cache, at), slots) };
        match &elements {
            Elements::F32(to) => backend.vectorize(WriteHead { rows, to: to.get() }),
            Elements::F16(to) => backend.vectorize(WriteHead { rows, to: to.get() }),
        }
    };
    if slots.len() < SHARE_FROM_ROWS {
        (0..heads.num_kv_heads).for_each(write);
    } else {
        backend.pool().run(heads.num_kv_heads, write);
    }
    Ok(())
}

enum Elements {
    F32(SyncPtr<f32>),
    F16(SyncPtr<u16>),
}

/// One head of the rows that go into the cache.
struct HeadRows<'a> {
    qkv: &'a [f32],
    heads: HeadLayout,
    cache: &'a CpuKvCache,
    /// Layer and head.
    at: (usize, usize),
    slots: &'a [u32],
}

impl<'a> HeadRows<'a> {
    /// # Safety
    /// Every slot must be within the cache, and nothing else may read or write the head's elements there
    /// while the rows are written.
    unsafe fn new(
        qkv: &'a [f32],
        heads: HeadLayout,
        (cache, at): (&'a CpuKvCache, (usize, usize)),
        slots: &'a [u32],
    ) -> Self {
        Self {
            qkv,
            heads,
            cache,
            at,
            slots,
        }
    }
}

struct WriteHead<'a, E> {
    rows: HeadRows<'a>,
    /// The elements of `rows.cache`.
    to: *mut E,
}

impl<E: Element> Kernel for WriteHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let HeadRows {
            qkv,
            heads,
            cache,
            at: (layer, head),
            slots,
        } = self.rows;
        for (row, &slot) in slots.iter().enumerate() {
            let key = row * heads.qkv_width() + heads.q_width() + head * heads.head_dim;
            for (side, from) in [(KvSide::Key, key), (KvSide::Value, key + heads.kv_width())] {
                let (start, stride) = cache.slot(layer, side, slot as usize, head);
                let from = &qkv[from..][..heads.head_dim];
                for (chunk, x) in from.chunks(LANES).enumerate() {
                    let mut narrowed = [E::ZERO; LANES];
                    E::store(s, s.load_partial(x, 0.0), &mut narrowed);
                    for (i, &element) in narrowed[..x.len()].iter().enumerate() {
                        // SAFETY: `HeadRows::new` demands a slot within the cache and exclusive access.
                        unsafe { *self.to.add(start + (chunk * LANES + i) * stride) = element };
                    }
                }
            }
        }
    }
}

/// Refuses a layer or heads that the cache was not made for.
pub(super) fn check_cache(cache: &CpuKvCache, layer: usize, heads: HeadLayout) -> Result<(), BackendError> {
    let layout = cache.layout();
    if layer >= layout.num_layers {
        return Err(shape_error(format!(
            "layer {layer} of a cache of {} layers",
            layout.num_layers
        )));
    }
    if (heads.num_kv_heads, heads.head_dim) != (layout.num_kv_heads, layout.head_dim) {
        return Err(shape_error(format!(
            "{} heads of {} elements in a cache of {} heads of {}",
            heads.num_kv_heads, heads.head_dim, layout.num_kv_heads, layout.head_dim
        )));
    }
    Ok(())
}
