//! The decoder.

use ferrum_kernels::{
    Backend, BackendError,
    backend::{KvDtype, KvLayout},
    ops::GatheredColumns,
};

use super::{Limits, scratch::Scratch};
use crate::{
    BatchLimits, CausalLm, ForwardBatch, LoadError,
    config::DecoderConfig,
    layers::{GatedMlp, Hidden, PagedAttention, PagedStep, RmsNorm, build_rotary_table},
    shard::{DecoderShard, Extent},
    weights::loader::WeightLoader,
};

pub(super) struct LlamaModel<B: Backend> {
    embed_tokens: B::Weight, // (vocab, hidden)
    layers: Vec<Layer<B>>,
    norm: RmsNorm<B>,
    lm_head: Option<B::Weight>, // (own vocab, hidden); none where it is the embedding table, whole
    rotary_table: B::Buffer,
    scratch: Scratch<B>,
    config: DecoderConfig,
    shard: DecoderShard,
    limits: Limits,
    kv_dtype: KvDtype,
}

struct Layer<B: Backend> {
    input_layernorm: RmsNorm<B>,
    self_attn: PagedAttention<B>,
    post_attention_layernorm: RmsNorm<B>,
    mlp: GatedMlp<B>,
}

impl<B: Backend> LlamaModel<B> {
    pub(super) fn load(
        loader: &WeightLoader<'_, B>,
        config: &DecoderConfig,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let block_len = loader.weights.largest_block("mlp.down_proj.weight");
        let shard = DecoderShard::of(config, loader.backend.rank(), block_len)?;
        let table = |name: &str, rows: Extent| loader.matrix(&[(name.to_owned(), rows)], hidden.into());
        let embedding = "model.embed_tokens.weight";
        let output = |name: &str| loader.output_layer(name, shard.vocab, hidden.into());
        let lm_head = match config.tie_word_embeddings {
            true if shard.vocab.is_whole() && !loader.changes_output_layer(embedding) => None,
            true => Some(output(embedding)?),
            false => Some(output("lm_head.weight")?),
        };
        let layers = 0..config.windows.len();
        Ok(Self {
            embed_tokens: table(embedding, config.vocab_size.into())?,
            layers: layers
                .map(|layer| Layer::load(loader, (config, &shard), layer))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::load(loader, "model.norm", hidden, eps)?,
            lm_head,
            rotary_table: build_rotary_table(
                loader,
                &config.rope,
                config.heads.head_dim,
                limits.max_model_len,
            )?,
            scratch: Scratch::alloc(loader, (config, &shard), limits.step)?,
            config: config.clone(),
            shard,
            limits,
            kv_dtype: loader.kv_dtype(),
        })
    }
}

impl<B: Backend> Layer<B> {
    fn load(
        loader: &WeightLoader<'_, B>,
        (config, shard): (&DecoderConfig, &DecoderShard),
        layer: usize,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let widths = (hidden, shard.intermediate);
        Ok(Self {
            input_layernorm: RmsNorm::load(loader, &name("input_layernorm"), hidden, eps)?,
            self_attn: PagedAttention::load(loader, &name("self_attn."), (config, shard), layer)?,
            post_attention_layernorm: RmsNorm::load(loader, &name("post_attention_layernorm"), hidden, eps)?,
            mlp: GatedMlp::load(loader, &name("mlp."), widths, config.mlp_bias)?,
        })
    }
}

impl<B: Backend> CausalLm<B> for LlamaModel<B> {
    fn limits(&self) -> BatchLimits {
        self.limits.step
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_model_len(&self) -> usize {
        self.limits.max_model_len
    }

    fn kv_layout(&self, block_size: usize, num_blocks: usize) -> KvLayout {
        KvLayout {
            num_layers: self.layers.len(),
            num_kv_heads: self.shard.heads.num_kv_heads,
            head_dim: self.config.heads.head_dim,
            block_size,
            num_blocks,
            dtype: self.kv_dtype,
        }
    }

    fn forward(
        &mut self,
        backend: &B,
        batch: &ForwardBatch<B>,
        cache: &mut B::KvCache,
    ) -> Result<&B::Buffer, BackendError> {
        batch.check(self.limits.step)?;
        let step = PagedStep {
            batch,
            rotary_table: &self.rotary_table,
        };
        let (s, rows) = (&mut self.scratch, batch.num_tokens);
        let hidden = &mut s.hidden;
        backend.embed(&self.embed_tokens, &batch.ids, rows, &mut hidden.residual)?;
        let mut layers = self.layers.iter().peekable();
        if let Some(first) = layers.peek() {
            let norm = &first.input_layernorm;
            norm.forward(backend, &hidden.residual, rows, &mut hidden.normed)?;
        }
        while let Some(layer) = layers.next() {
            let (qkv, next) = ((&mut s.qkv, &mut s.attended), &layer.post_attention_layernorm);
            layer
                .self_attn
                .forward(backend, &step, cache, (hidden, next), qkv)?;
            let (gate_up, next) = ((&mut s.gate_up, &mut s.activated), layers.peek());
            let next = next.map(|layer| &layer.input_layernorm);
            layer.mlp.forward(backend, rows, (hidden, next), gate_up)?;
        }
        self.project_last(backend, batch)
    }

    fn logits(&self) -> &B::Buffer {
        &self.scratch.logits
    }
}

impl<B: Backend> LlamaModel<B> {
    /// The last norm and the output layer, on the rows whose logits are wanted.
    fn project_last(&mut self, backend: &B, batch: &ForwardBatch<B>) -> Result<&B::Buffer, BackendError> {
        let (s, last, hidden) = (&mut self.scratch, batch.num_logit_rows, self.config.hidden_size);
        if last > 0 {
            let (of, Hidden { residual, added, .. }) = (&batch.logit_rows, &s.hidden);
            backend.gather_rows(residual, of, last, hidden, &mut s.last_residual)?;
            backend.gather_rows(added, of, last, hidden, &mut s.last_out)?;
            self.norm.add_forward(
                backend,
                &mut s.last_out,
                &mut s.last_residual,
                last,
                &mut s.last_normed,
            )?;
            let lm_head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
            let columns = GatheredColumns {
                part: &mut s.logits_part,
                own: self.shard.vocab.range(),
                total: self.shard.vocab.full,
            };
            backend.gathered_linear(&s.last_normed, lm_head, last, columns, &mut s.logits)?;
        }
        Ok(&s.logits)
    }
}
