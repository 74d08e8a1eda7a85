//! Rotary positions, the paged KV cache and attention.

use crate::{
    backend::{BackendError, BackendTypes},
    ops::NormOps,
};

/// How a fused projection `(rows, q heads + kv heads + kv heads, head_dim)` is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub num_heads: usize,
    /// Key heads, and as many value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Elements of all query heads.
    pub const fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Elements of all key heads (and of all value heads).
    pub const fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Elements of one row of the fused projection.
    pub const fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every key of its sequence.
    Bidirectional,
    /// Keys at its own position and before.
    Causal,
}

/// The sequences of one step, as attention over the paged cache reads them.
pub struct PagedBatch<'a, I> {
    /// `(num_seqs + 1)`: first query row of each sequence in the step's rows, then their count.
    pub cu_seqlens_q: &'a I,
    /// `(num_seqs)`: tokens of each sequence in the cache, this step's own included.
    pub context_lens: &'a I,
    /// `(num_seqs, max_blocks)`: the blocks of each sequence, in order.
    pub block_tables: &'a I,
    /// Row stride of `block_tables`.
    pub max_blocks: usize,
    /// Sequences in the step.
    pub num_seqs: usize,
    /// Query rows in the step.
    pub rows: usize,
}

/// How queries see the cache.
pub struct PagedView<'a, I> {
    /// Whose.
    pub batch: &'a PagedBatch<'a, I>,
    /// What scores are multiplied by.
    pub scale: f32,
    /// How many positions a query sees, if not all.
    pub window: Option<usize>,
}

/// Weights of the norm of query and key heads; q, k `(head_dim)`.
pub struct QkNormWeights<'a, B> {
    /// Of query heads.
    pub q: &'a B,
    /// Of key heads.
    pub k: &'a B,
    /// Added to the mean square.
    pub eps: f32,
}

/// How the rows of a step are rotated.
pub struct RotaryStep<'a, B, I> {
    /// `(rows)`.
    pub positions: &'a I,
    /// From [`Backend::prepare_rope`](crate::Backend::prepare_rope).
    pub table: &'a B,
    /// Rows of the step.
    pub rows: usize,
}

/// Where the keys and values of a step go.
pub struct CacheSlots<'a, C, I> {
    /// The cache.
    pub cache: &'a mut C,
    /// Its layer.
    pub layer: usize,
    /// `(rows)`: block * block_size + offset.
    pub slots: &'a I,
}

/// Attention and what prepares it.
pub trait AttentionOps: BackendTypes + NormOps {
    /// Rotates query and key heads of `qkv` in place, halves paired (`x[i], x[i + head_dim / 2]`; Su et al.
    /// 2021 in the layout of GPT-NeoX): positions `(rows)`, `table` from
    /// [`Backend::prepare_rope`](crate::Backend::prepare_rope).
    fn rope(
        &self,
        qkv: &mut Self::Buffer,
        heads: HeadLayout,
        positions: &Self::Indices,
        table: &Self::Buffer,
        rows: usize,
    ) -> Result<(), BackendError>;

    /// Copies key and value heads of `qkv` into the cache: slots `(rows)`, slot = block * block_size + offset.
    fn write_kv(
        &self,
        qkv: &Self::Buffer,
        heads: HeadLayout,
        cache: &mut Self::KvCache,
        layer: usize,
        slots: &Self::Indices,
        rows: usize,
    ) -> Result<(), BackendError>;

    /// The norm of query and key heads (where there is one), rotation, and the copy into the cache.
    fn norm_rope_write_kv(
        &self,
        qkv: &mut Self::Buffer,
        heads: HeadLayout,
        norm: Option<QkNormWeights<'_, Self::Buffer>>,
        rotary: RotaryStep<'_, Self::Buffer, Self::Indices>,
        to: CacheSlots<'_, Self::KvCache, Self::Indices>,
    ) -> Result<(), BackendError> {
        if let Some(norm) = norm {
            self.qk_norm(qkv, heads, (norm.q, norm.k), norm.eps, rotary.rows)?;
        }
        self.rope(qkv, heads, rotary.positions, rotary.table, rotary.rows)?;
        self.write_kv(qkv, heads, to.cache, to.layer, to.slots, rotary.rows)
    }

    /// Causal attention of the step's queries over the cache, `softmax(scale * q . k) . v`; out
    /// `(rows, q_width)`. The last query of a sequence is at position `context_len - 1`. With a `window`
    /// a query sees only the last `window` positions, its own included.
    #[allow(clippy::too_many_arguments)] // one launch: what it reads, how, what it writes
    fn paged_attention(
        &self,
        qkv: &Self::Buffer,
        heads: HeadLayout,
        cache: &Self::KvCache,
        layer: usize,
        batch: &PagedBatch<'_, Self::Indices>,
        scale: f32,
        window: Option<usize>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// [`Self::norm_rope_write_kv`], then [`Self::paged_attention`] of what it wrote, which is the last tokens of the
    /// sequences of `batch`. What `qkv` holds afterwards is not said.
    #[allow(clippy::too_many_arguments)] // as above
    fn norm_rope_attention(
        &self,
        qkv: &mut Self::Buffer,
        heads: HeadLayout,
        norm: Option<QkNormWeights<'_, Self::Buffer>>,
        rotary: RotaryStep<'_, Self::Buffer, Self::Indices>,
        to: CacheSlots<'_, Self::KvCache, Self::Indices>,
        seen: PagedView<'_, Self::Indices>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        write_then_attend(self, (qkv, heads), norm, rotary, to, seen, out)
    }

    /// Attention within sequences laid end to end, without a cache: cu_seqlens `(num_seqs + 1)`, out
    /// `(rows, q_width)`.
    #[allow(clippy::too_many_arguments)] // as above
    fn varlen_attention(
        &self,
        qkv: &Self::Buffer,
        heads: HeadLayout,
        cu_seqlens: &Self::Indices,
        num_seqs: usize,
        mask: AttentionMask,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;
}

/// [`AttentionOps::norm_rope_attention`] as its two parts, for backends that have no kernel for some of its shapes.
pub(crate) fn write_then_attend<B: AttentionOps + ?Sized>(
    backend: &B,
    (qkv, heads): (&mut B::Buffer, HeadLayout),
    norm: Option<QkNormWeights<'_, B::Buffer>>,
    rotary: RotaryStep<'_, B::Buffer, B::Indices>,
    to: CacheSlots<'_, B::KvCache, B::Indices>,
    seen: PagedView<'_, B::Indices>,
    out: &mut B::Buffer,
) -> Result<(), BackendError> {
    let CacheSlots { cache, layer, slots } = to;
    let fresh = CacheSlots {
        cache: &mut *cache,
        layer,
        slots,
    };
    backend.norm_rope_write_kv(qkv, heads, norm, rotary, fresh)?;
    let PagedView { batch, scale, window } = seen;
    backend.paged_attention(qkv, heads, cache, layer, batch, scale, window, out)
}
