//! An embedding model and one batch.

use std::path::Path;

use ferrum_kernels::{Backend, cpu::CpuBackend};
use ferrum_models::{EmbedBatch, Embedder, LoadOptions, Model, open};

pub(crate) struct TextEmbedder {
    pub(crate) backend: CpuBackend,
    pub(crate) model: Box<dyn Embedder<CpuBackend>>,
    batch: EmbedBatch<CpuBackend>,
}

impl TextEmbedder {
    pub(crate) fn load(path: &Path) -> Self {
        let backend = super::backend();
        let checkpoint = open(path).expect("a checkpoint");
        let model = checkpoint
            .load(&backend, &LoadOptions::default())
            .expect("a model that loads");
        let Model::Embedding(model) = model else {
            panic!("an embedding model is expected");
        };
        let batch = EmbedBatch::alloc(&backend, model.limits()).expect("memory for a batch");
        Self {
            backend,
            model,
            batch,
        }
    }

    /// One vector a text.
    pub(crate) fn embed(&mut self, texts: &[&[u32]]) -> Vec<Vec<f32>> {
        let ids = texts.concat();
        let positions: Vec<u32> = texts.iter().flat_map(|text| 0..text.len() as u32).collect();
        let mut cu_seqlens = vec![0];
        for text in texts {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + text.len() as u32);
        }
        let batch = &mut self.batch;
        let write = |src: &[u32], dst| self.backend.write_indices(src, dst).expect("room in the batch");
        write(&ids, &mut batch.ids);
        write(&positions, &mut batch.positions);
        write(&cu_seqlens, &mut batch.cu_seqlens);
        (batch.num_tokens, batch.num_seqs) = (ids.len(), texts.len());
        let dims = self.model.dims();
        let out = self.model.forward(&self.backend, batch).expect("a step");
        let mut vectors = vec![0.0; texts.len() * dims];
        self.backend.read_into(out, &mut vectors).expect("vectors");
        vectors.chunks(dims).map(<[f32]>::to_vec).collect()
    }
}
