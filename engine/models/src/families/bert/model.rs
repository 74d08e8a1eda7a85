//! The encoder and its pooling.

use ferrum_kernels::{
    Backend, BackendError,
    ops::{AttentionMask, Gelu, HeadLayout},
};

use super::{Limits, scratch::Scratch};
use crate::{
    BatchLimits, EmbedBatch, Embedder, LoadError,
    config::{EncoderConfig, Pooling},
    layers::{LayerNorm, Linear},
    weights::loader::WeightLoader,
};

pub(super) struct BertModel<B: Backend> {
    word_embeddings: B::Weight,       // (vocab, hidden)
    position_embeddings: B::Weight,   // (positions, hidden)
    token_type_embeddings: B::Weight, // (types, hidden)
    layer_norm: LayerNorm<B>,
    layers: Vec<Layer<B>>,
    scratch: Scratch<B>,
    config: EncoderConfig,
    limits: Limits,
}

struct Layer<B: Backend> {
    qkv: Linear<B>,
    attention_output: Linear<B>,
    attention_layer_norm: LayerNorm<B>,
    intermediate: Linear<B>,
    output: Linear<B>,
    output_layer_norm: LayerNorm<B>,
    heads: HeadLayout,
    gelu: Gelu,
    intermediate_size: usize,
}

impl<B: Backend> BertModel<B> {
    pub(super) fn load(
        loader: &WeightLoader<'_, B>,
        config: &EncoderConfig,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        // A checkpoint saved from a class with a head has everything below `bert.`.
        let prefix = match loader.weights.contains("bert.embeddings.word_embeddings.weight") {
            true => "bert.",
            false => "",
        };
        let hidden = config.hidden_size;
        let table = |name: &str, rows: usize| {
            loader.matrix(
                &[(
                    format!("{prefix}embeddings.{name}_embeddings.weight"),
                    rows.into(),
                )],
                hidden.into(),
            )
        };
        let norm = format!("{prefix}embeddings.LayerNorm");
        // A text is never cut, so that a step has room for the longest.
        let step = BatchLimits {
            max_num_batched_tokens: limits.step.max_num_batched_tokens.max(limits.max_model_len),
            ..limits.step
        };
        let layers = 0..config.num_layers;
        Ok(Self {
            word_embeddings: table("word", config.vocab_size)?,
            position_embeddings: table("position", config.max_position_embeddings)?,
            token_type_embeddings: table("token_type", config.type_vocab_size)?,
            layer_norm: LayerNorm::load(loader, &norm, hidden, config.layer_norm_eps)?,
            layers: layers
                .map(|layer| Layer::load(loader, &format!("{prefix}encoder.layer.{layer}."), config))
                .collect::<Result<_, _>>()?,
            scratch: Scratch::alloc(loader, config, step)?,
            config: config.clone(),
            limits: Limits { step, ..limits },
        })
    }

    /// Word, position and type embeddings, summed and normalised, into `hidden`.
    fn embed(&mut self, backend: &B, batch: &EmbedBatch<B>) -> Result<(), BackendError> {
        let (s, rows) = (&mut self.scratch, batch.num_tokens);
        let len = rows * self.config.hidden_size;
        backend.embed(&self.word_embeddings, &batch.ids, rows, &mut s.block_out)?;
        backend.embed(&self.token_type_embeddings, &s.token_types, rows, &mut s.hidden)?;
        backend.add(&s.hidden, &mut s.block_out, len)?;
        backend.embed(&self.position_embeddings, &batch.positions, rows, &mut s.hidden)?;
        backend.add(&s.hidden, &mut s.block_out, len)?;
        self.layer_norm
            .forward(backend, &s.block_out, rows, &mut s.hidden)
    }

    fn pool(&mut self, backend: &B, batch: &EmbedBatch<B>) -> Result<&B::Buffer, BackendError> {
        let (s, seqs, dims) = (&mut self.scratch, batch.num_seqs, self.config.hidden_size);
        match self.config.pooling {
            // The first row of each text is where cu_seqlens says that it begins.
            Pooling::Cls => backend.gather_rows(&s.hidden, &batch.cu_seqlens, seqs, dims, &mut s.pooled)?,
            Pooling::Mean => backend.mean_pool(&s.hidden, &batch.cu_seqlens, seqs, dims, &mut s.pooled)?,
        }
        if self.config.normalize {
            backend.l2_normalize(&mut s.pooled, seqs, dims)?;
        }
        Ok(&s.pooled)
    }
}

impl<B: Backend> Layer<B> {
    fn load(loader: &WeightLoader<'_, B>, prefix: &str, config: &EncoderConfig) -> Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear = |parts: &[(&str, usize)], cols: usize| {
            let parts: Vec<_> = parts.iter().map(|&(part, rows)| (part, rows.into())).collect();
            Linear::load(loader, prefix, &parts, cols.into(), true)
        };
        let norm =
            |part: &str| LayerNorm::load(loader, &format!("{prefix}{part}"), hidden, config.layer_norm_eps);
        let qkv = ["query", "key", "value"].map(|part| format!("attention.self.{part}"));
        Ok(Self {
            qkv: linear(&[(&qkv[0], hidden), (&qkv[1], hidden), (&qkv[2], hidden)], hidden)?,
            attention_output: linear(&[("attention.output.dense", hidden)], hidden)?,
            attention_layer_norm: norm("attention.output.LayerNorm")?,
            intermediate: linear(&[("intermediate.dense", intermediate)], hidden)?,
            output: linear(&[("output.dense", hidden)], intermediate)?,
            output_layer_norm: norm("output.LayerNorm")?,
            heads: config.heads,
            gelu: config.gelu,
            intermediate_size: intermediate,
        })
    }

    /// Attention and feed-forward, each added to its input and normalised; `hidden` in and out.
    fn forward(&self, backend: &B, batch: &EmbedBatch<B>, s: &mut Scratch<B>) -> Result<(), BackendError> {
        let (rows, heads) = (batch.num_tokens, self.heads);
        let len = rows * heads.q_width();
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        let mask = AttentionMask::Bidirectional;
        self.qkv.forward(backend, &s.hidden, rows, &mut s.qkv)?;
        let (lens, seqs) = (&batch.cu_seqlens, batch.num_seqs);
        backend.varlen_attention(&s.qkv, heads, lens, seqs, mask, scale, &mut s.attended)?;
        self.attention_output
            .forward(backend, &s.attended, rows, &mut s.block_out)?;
        backend.add(&s.hidden, &mut s.block_out, len)?;
        self.attention_layer_norm
            .forward(backend, &s.block_out, rows, &mut s.hidden)?;
        self.intermediate
            .forward(backend, &s.hidden, rows, &mut s.intermediate)?;
        backend.gelu(&mut s.intermediate, self.gelu, rows * self.intermediate_size)?;
        self.output
            .forward(backend, &s.intermediate, rows, &mut s.block_out)?;
        backend.add(&s.hidden, &mut s.block_out, len)?;
        self.output_layer_norm
            .forward(backend, &s.block_out, rows, &mut s.hidden)
    }
}

impl<B: Backend> Embedder<B> for BertModel<B> {
    fn limits(&self) -> BatchLimits {
        self.limits.step
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_model_len(&self) -> usize {
        self.limits.max_model_len
    }

    fn dims(&self) -> usize {
        self.config.hidden_size
    }

    fn forward(&mut self, backend: &B, batch: &EmbedBatch<B>) -> Result<&B::Buffer, BackendError> {
        batch.check(self.limits.step)?;
        self.embed(backend, batch)?;
        for layer in &self.layers {
            layer.forward(backend, batch, &mut self.scratch)?;
        }
        self.pool(backend, batch)
    }
}
