//! Rotary positions, the paged KV cache and attention.

use crate::backend::{BackendError, BackendTypes};

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

/// Attention and what prepares it.
pub trait AttentionOps: BackendTypes {
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
