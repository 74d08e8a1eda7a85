use ferrum_kernels::{
    Backend, BackendError,
    ops::{CacheSlots, HeadLayout, PagedView, QkNormWeights, RotaryStep},
};

use super::{Hidden, Linear, RmsNorm};
use crate::{
    ForwardBatch, LoadError, config::DecoderConfig, shard::DecoderShard, weights::loader::WeightLoader,
};

/// Causal self-attention over the paged cache, query, key and value fused into one projection; of a rank's own heads.
pub(crate) struct PagedAttention<B: Backend> {
    qkv_proj: Linear<B>,
    o_proj: Linear<B>,
    qk_norm: Option<QkNorm<B>>,
    heads: HeadLayout,
    scale: f32,
    window: Option<usize>,
    /// Which layer of the cache is its own.
    layer: usize,
}

/// RMS norm of each query and each key head.
struct QkNorm<B: Backend> {
    q: B::Buffer, // (head_dim)
    k: B::Buffer, // (head_dim)
    eps: f32,
}

/// What all layers of a step share.
pub(crate) struct PagedStep<'a, B: Backend> {
    pub(crate) batch: &'a ForwardBatch<B>,
    pub(crate) rotary_table: &'a B::Buffer,
}

impl<B: Backend> PagedAttention<B> {
    /// Loads `<prefix>q_proj`, `k_proj`, `v_proj`, `o_proj` and, for Qwen3, `q_norm` and `k_norm`.
    pub(crate) fn load(
        loader: &WeightLoader<'_, B>,
        prefix: &str,
        (config, shard): (&DecoderConfig, &DecoderShard),
        layer: usize,
    ) -> Result<Self, LoadError> {
        let heads = shard.heads;
        let hidden = config.hidden_size.into();
        let qkv = [("q_proj", shard.q), ("k_proj", shard.kv), ("v_proj", shard.kv)];
        Ok(Self {
            qkv_proj: Linear::load(loader, prefix, &qkv, hidden, config.qkv_bias)?,
            o_proj: Linear::load(loader, prefix, &[("o_proj", hidden)], shard.q, config.o_bias)?,
            qk_norm: config
                .qk_norm
                .then(|| QkNorm::load(loader, prefix, config))
                .transpose()?,
            heads,
            scale: 1.0 / (heads.head_dim as f32).sqrt(),
            window: config.windows[layer],
            layer,
        })
    }

    /// Between the norms of its input and of the next block's; scratch qkv `(rows, qkv_width)` and attended `(rows, q_width)`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        step: &PagedStep<'_, B>,
        cache: &mut B::KvCache,
        (hidden, next): (&mut Hidden<B>, &RmsNorm<B>),
        (qkv, attended): (&mut B::Buffer, &mut B::Buffer),
    ) -> Result<(), BackendError> {
        let batch = step.batch;
        let rows = batch.num_tokens;
        let heads = self.heads;
        self.qkv_proj
            .normed_forward(backend, &mut hidden.normed, rows, qkv)?;
        let norm = self.qk_norm.as_ref().map(|norm| QkNormWeights {
            q: &norm.q,
            k: &norm.k,
            eps: norm.eps,
        });
        let rotary = RotaryStep {
            positions: &batch.positions,
            table: step.rotary_table,
            rows,
        };
        let to = CacheSlots {
            cache,
            layer: self.layer,
            slots: &batch.slots,
        };
        let seen = PagedView {
            batch: &batch.paged(),
            scale: self.scale,
            window: self.window,
        };
        backend.norm_rope_attention(qkv, heads, norm, rotary, to, seen, attended)?;
        self.o_proj
            .add_forward(backend, attended, rows, hidden, Some(next))
    }
}

impl<B: Backend> QkNorm<B> {
    fn load(loader: &WeightLoader<'_, B>, prefix: &str, config: &DecoderConfig) -> Result<Self, LoadError> {
        let head_dim = config.heads.head_dim.into();
        Ok(Self {
            q: loader.vector(&[(format!("{prefix}q_norm.weight"), head_dim)])?,
            k: loader.vector(&[(format!("{prefix}k_norm.weight"), head_dim)])?,
            eps: config.rms_norm_eps,
        })
    }
}
