//! Rotary positions, the paged KV cache and attention.

use std::sync::Arc;

use crate::{
    backend::{BackendError, KvDtype, KvLayout},
    cpu::shape_error,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, Element,
        device::{Device, DeviceMemory},
        norm::same_element,
        paged::{Fresh, Paged, fits_tensor_cores},
        rope_rows::MANY_ROWS,
    },
    ops::{
        AttentionMask, AttentionOps, CacheSlots, HeadLayout, PagedBatch, PagedView, QkNormWeights,
        RotaryStep, write_then_attend,
    },
};

/// Query heads of one key head that they take at once.
pub(super) const MMA_GROUP: usize = 16;
/// Parts (sequence, key head, split) of a decode step whose results are brought together afterwards.
pub(super) const MAX_PARTS: usize = 4096;

/// Keys and values of all layers, as cuda/rope.cu lays them out.
pub struct CudaKvCache {
    pub(super) layout: KvLayout,
    pub(super) element: Element,
    memory: DeviceMemory,
    /// Results of splits, and how many have arrived.
    pub(super) partial: DeviceMemory,
    pub(super) arrived: DeviceMemory,
}

impl CudaKvCache {
    pub(super) fn alloc(
        device: &Arc<Device>,
        layout: &KvLayout,
        computes: Element,
    ) -> Result<Self, BackendError> {
        let element = match (layout.dtype, computes) {
            (KvDtype::F32, _) => Element::F32,
            (KvDtype::F16, Element::Bf16) => Element::Bf16,
            (KvDtype::F16, _) => Element::F16,
        };
        let bytes = layout.block_bytes().saturating_mul(layout.num_blocks);
        let what = format!("a KV cache of {} blocks", layout.num_blocks);
        Ok(Self {
            layout: *layout,
            element,
            memory: device.alloc(bytes, &what)?,
            partial: device.alloc(
                MAX_PARTS * MMA_GROUP * (layout.head_dim + 2) * 4,
                "parts of attention",
            )?,
            arrived: device.alloc(MAX_PARTS * 4, "parts of attention")?,
        })
    }

    /// Addresses of a layer's keys and values.
    pub(super) fn layer(&self, layer: usize) -> Result<(u64, u64), BackendError> {
        let KvLayout {
            num_layers,
            num_blocks,
            ..
        } = self.layout;
        if layer >= num_layers {
            return Err(shape_error(format!("layer {layer} of a cache of {num_layers}")));
        }
        let side = (self.layout.block_bytes() / (2 * num_layers) * num_blocks) as u64;
        let keys = self.memory.address() + layer as u64 * 2 * side;
        Ok((keys, keys + side))
    }

    pub(super) fn check_heads(&self, what: &str, heads: HeadLayout) -> Result<(), BackendError> {
        let KvLayout {
            num_kv_heads,
            head_dim,
            ..
        } = self.layout;
        if (heads.num_kv_heads, heads.head_dim) != (num_kv_heads, head_dim) {
            return Err(shape_error(format!(
                "{what}: {heads:?} with a cache of {num_kv_heads} heads of {head_dim}"
            )));
        }
        Ok(())
    }
}

pub(super) fn check_head_layout(what: &str, heads: HeadLayout) -> Result<(), BackendError> {
    let HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    } = heads;
    if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) || head_dim == 0 || head_dim > 256 {
        return Err(shape_error(format!(
            "{what}: {heads:?}: query heads must be a multiple of key heads, a head has 1 to 256 elements"
        )));
    }
    Ok(())
}

/// Checks what becomes queries of a projection, and what goes into the cache.
fn check_fresh(
    what: &str,
    (qkv, heads): (&CudaBuffer, HeadLayout),
    norm: &Option<QkNormWeights<'_, CudaBuffer>>,
    rotary: &RotaryStep<'_, CudaBuffer, CudaIndices>,
    to: &CacheSlots<'_, CudaKvCache, CudaIndices>,
) -> Result<(), BackendError> {
    check_head_layout(what, heads)?;
    qkv.check(what, rotary.rows * heads.qkv_width())?;
    rotary.positions.check(what, rotary.rows)?;
    to.slots.check(what, rotary.rows)?;
    to.cache.check_heads(what, heads)?;
    if let Some(norm) = norm {
        norm.q.check(what, heads.head_dim)?;
        norm.k.check(what, heads.head_dim)?;
    }
    Ok(())
}

impl AttentionOps for CudaBackend {
    fn rope(
        &self,
        qkv: &mut CudaBuffer,
        heads: HeadLayout,
        positions: &CudaIndices,
        table: &CudaBuffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        qkv.check("rope: qkv", rows * heads.qkv_width())?;
        positions.check("rope: positions", rows)?;
        self.device
            .kernel(&format!("rope_{}", qkv.element().name()))?
            .grid(rows, heads.num_heads + heads.num_kv_heads, 1)
            .threads((heads.head_dim / 2).next_multiple_of(32).clamp(32, 128))
            .wide(qkv.address())
            .wide(table.address())
            .wide(positions.address())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .run()
    }

    fn write_kv(
        &self,
        qkv: &CudaBuffer,
        heads: HeadLayout,
        cache: &mut CudaKvCache,
        layer: usize,
        slots: &CudaIndices,
        rows: usize,
    ) -> Result<(), BackendError> {
        qkv.check("write_kv: qkv", rows * heads.qkv_width())?;
        slots.check("write_kv: slots", rows)?;
        cache.check_heads("write_kv", heads)?;
        let (keys, values) = cache.layer(layer)?;
        self.device
            .kernel(&format!(
                "write_kv_{}_{}",
                qkv.element().name(),
                cache.element.name()
            ))?
            .grid(rows, heads.num_kv_heads, 1)
            .threads(heads.head_dim.next_multiple_of(32).clamp(32, 128))
            .wide(qkv.address())
            .wide(keys)
            .wide(values)
            .wide(slots.address())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .int(cache.layout.block_size)
            .run()
    }

    fn norm_rope_write_kv(
        &self,
        qkv: &mut CudaBuffer,
        heads: HeadLayout,
        norm: Option<QkNormWeights<'_, CudaBuffer>>,
        rotary: RotaryStep<'_, CudaBuffer, CudaIndices>,
        to: CacheSlots<'_, CudaKvCache, CudaIndices>,
    ) -> Result<(), BackendError> {
        let what = "norm_rope_write_kv";
        let rows = rotary.rows;
        check_fresh(what, (&*qkv, heads), &norm, &rotary, &to)?;
        let (keys, values) = to.cache.layer(to.layer)?;
        if rows >= MANY_ROWS && fits_tensor_cores(qkv, to.cache) {
            return self.rope_rows((qkv, heads), norm.as_ref(), &rotary, (keys, values), to.slots);
        }
        let types = format!("{}_{}", qkv.element().name(), to.cache.element.name());
        self.device
            .kernel(&format!("qk_rope_write_kv_{types}"))?
            .grid(rows, (heads.num_heads + 2 * heads.num_kv_heads).div_ceil(4), 1)
            .wide(qkv.address())
            .wide(keys)
            .wide(values)
            .wide(norm.as_ref().map_or(0, |norm| norm.q.address()))
            .wide(norm.as_ref().map_or(0, |norm| norm.k.address()))
            .float(norm.as_ref().map_or(0.0, |norm| norm.eps))
            .wide(rotary.table.address())
            .wide(rotary.positions.address())
            .wide(to.slots.address())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .int(to.cache.layout.block_size)
            .run()
    }

    fn paged_attention(
        &self,
        qkv: &CudaBuffer,
        heads: HeadLayout,
        cache: &CudaKvCache,
        layer: usize,
        batch: &PagedBatch<'_, CudaIndices>,
        scale: f32,
        window: Option<usize>,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let seen = PagedView { batch, scale, window };
        let attention = Paged::new((qkv, heads), (cache, layer), &seen, out)?;
        if attention.fits_tensor_cores() {
            return self.paged_mma(&attention);
        }
        let types = format!("{}_{}", qkv.element().name(), cache.element.name());
        self.device
            .kernel(&format!("paged_attention_{types}"))?
            .grid(batch.rows, heads.num_heads, 1)
            .wide(qkv.address())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .wide(attention.keys)
            .wide(attention.values)
            .wide(batch.cu_seqlens_q.address())
            .wide(batch.context_lens.address())
            .wide(batch.block_tables.address())
            .int(batch.max_blocks)
            .int(batch.num_seqs)
            .int(cache.layout.block_size)
            .float(scale)
            .int(attention.window)
            .wide(out.address())
            .run()
    }

    fn norm_rope_attention(
        &self,
        qkv: &mut CudaBuffer,
        heads: HeadLayout,
        norm: Option<QkNormWeights<'_, CudaBuffer>>,
        rotary: RotaryStep<'_, CudaBuffer, CudaIndices>,
        to: CacheSlots<'_, CudaKvCache, CudaIndices>,
        seen: PagedView<'_, CudaIndices>,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        check_fresh("norm_rope_attention", (&*qkv, heads), &norm, &rotary, &to)?;
        let attention = Paged::new((&*qkv, heads), (&*to.cache, to.layer), &seen, out)?;
        // Sums in one order have kernels of their own.
        if !self.batch_invariant && attention.decodes_on_tensor_cores() && rotary.rows == seen.batch.rows {
            return self.decode(
                &attention,
                Some(&Fresh {
                    norm,
                    rotary,
                    slots: to.slots,
                }),
            );
        }
        write_then_attend(self, (qkv, heads), norm, rotary, to, seen, out)
    }

    fn varlen_attention(
        &self,
        qkv: &CudaBuffer,
        heads: HeadLayout,
        cu_seqlens: &CudaIndices,
        num_seqs: usize,
        mask: AttentionMask,
        scale: f32,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let what = "varlen_attention";
        check_head_layout(what, heads)?;
        cu_seqlens.check(what, num_seqs + 1)?;
        same_element(what, qkv, out)?;
        // How many rows there are the device knows; blocks past the last do nothing.
        let rows = qkv.rows_of(heads.qkv_width()).min(out.rows_of(heads.q_width()));
        self.device
            .kernel(&format!("varlen_attention_{}", qkv.element().name()))?
            .grid(rows, heads.num_heads, 1)
            .wide(qkv.address())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .int(heads.head_dim)
            .wide(cu_seqlens.address())
            .int(num_seqs)
            .int(usize::from(mask == AttentionMask::Causal))
            .float(scale)
            .wide(out.address())
            .run()
    }
}
