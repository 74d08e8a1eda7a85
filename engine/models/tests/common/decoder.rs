//! A causal model, one cache and one batch, driven step by step.

use std::path::Path;

use ferrum_kernels::{Backend, cpu::CpuBackend};
use ferrum_models::{CausalLm, ForwardBatch, LoadOptions, Model, open};

use super::{Reference, check_logits, f32_tolerance, largest};

const BLOCK_SIZE: usize = 16;
/// Sequences that have blocks of their own.
const NUM_SEQUENCES: usize = 4;

pub(crate) struct Decoder<B: Backend = CpuBackend> {
    pub(crate) backend: B,
    pub(crate) model: Box<dyn CausalLm<B>>,
    batch: ForwardBatch<B>,
    cache: B::KvCache,
    max_blocks: usize,
}

/// Tokens of one sequence in one step.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    /// Below [`NUM_SEQUENCES`].
    pub(crate) sequence: usize,
    /// Position of the first token.
    pub(crate) start: usize,
    pub(crate) ids: &'a [u32],
}

/// Whose logits a step returns.
#[derive(Clone, Copy)]
pub(crate) enum Rows {
    All,
    Last,
}

impl Decoder {
    pub(crate) fn load(path: &Path, options: &LoadOptions<'_>) -> Self {
        Self::load_on(super::backend(), path, options)
    }
}

impl<B: Backend> Decoder<B> {
    pub(crate) fn load_on(backend: B, path: &Path, options: &LoadOptions<'_>) -> Self {
        let checkpoint = open(path).expect("a checkpoint");
        let Model::Causal(model) = checkpoint.load(&backend, options).expect("a model that loads") else {
            panic!("a causal model is expected");
        };
        let max_blocks = model.max_model_len().div_ceil(BLOCK_SIZE);
        let layout = model.kv_layout(BLOCK_SIZE, NUM_SEQUENCES * max_blocks);
        Self {
            batch: ForwardBatch::alloc(&backend, model.limits(), max_blocks).expect("memory for a batch"),
            cache: backend.alloc_kv_cache(&layout).expect("memory for a cache"),
            backend,
            model,
            max_blocks,
        }
    }

    /// Computes one step and returns the logits asked for, one vector a row.
    pub(crate) fn step(&mut self, chunks: &[Chunk<'_>], rows: Rows) -> Vec<Vec<f32>> {
        let (mut ids, mut positions, mut slots) = (vec![], vec![], vec![]);
        let (mut cu_seqlens, mut lens, mut tables, mut logit_rows) = (vec![0], vec![], vec![], vec![]);
        for chunk in chunks {
            let first_block = chunk.sequence * self.max_blocks;
            let end = chunk.start + chunk.ids.len();
            ids.extend_from_slice(chunk.ids);
            positions.extend((chunk.start..end).map(|position| position as u32));
            slots.extend((chunk.start..end).map(|position| (first_block * BLOCK_SIZE + position) as u32));
            lens.push(end as u32);
            tables.extend((0..self.max_blocks).map(|block| (first_block + block) as u32));
            let first_row = *cu_seqlens.last().expect("a first row");
            let last_row = first_row + chunk.ids.len() as u32;
            cu_seqlens.push(last_row);
            match rows {
                Rows::All => logit_rows.extend(first_row..last_row),
                Rows::Last => logit_rows.push(last_row - 1),
            }
        }
        let batch = &mut self.batch;
        let write = |src: &[u32], dst| self.backend.write_indices(src, dst).expect("room in the batch");
        write(&ids, &mut batch.ids);
        write(&positions, &mut batch.positions);
        write(&slots, &mut batch.slots);
        write(&cu_seqlens, &mut batch.cu_seqlens_q);
        write(&lens, &mut batch.context_lens);
        write(&tables, &mut batch.block_tables);
        write(&logit_rows, &mut batch.logit_rows);
        (batch.num_tokens, batch.num_seqs) = (ids.len(), chunks.len());
        (batch.num_logit_rows, batch.max_blocks) = (logit_rows.len(), self.max_blocks);
        self.forward(logit_rows.len())
    }

    fn forward(&mut self, rows: usize) -> Vec<Vec<f32>> {
        let vocab = self.model.vocab_size();
        let out = self
            .model
            .forward(&self.backend, &self.batch, &mut self.cache)
            .expect("a step");
        if self.backend.rank().index > 0 {
            // The first rank has them.
            return Vec::new();
        }
        let mut logits = vec![0.0; rows * vocab];
        self.backend.read_into(out, &mut logits).expect("logits");
        logits.chunks(vocab).map(<[f32]>::to_vec).collect()
    }

    /// Logits of every position of a prompt, computed in one step.
    pub(crate) fn prefill(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let chunk = Chunk {
            sequence: 0,
            start: 0,
            ids,
        };
        self.step(&[chunk], Rows::All)
    }

    /// The likeliest token again and again, until a stop token or `max_tokens`.
    pub(crate) fn greedy(&mut self, prompt: &[u32], max_tokens: usize, stop: &[u32]) -> Vec<u32> {
        let mut ids = prompt.to_vec();
        let mut start = 0;
        while ids.len() < prompt.len() + max_tokens {
            let chunk = Chunk {
                sequence: 0,
                start,
                ids: &ids[start..],
            };
            let next = argmax(&self.step(&[chunk], Rows::Last)[0]);
            start = ids.len();
            ids.push(next);
            if stop.contains(&next) {
                break;
            }
        }
        ids.split_off(prompt.len())
    }

    /// Checks logits and greedy ids against those of a fixture, computed in single precision.
    pub(crate) fn check_against_reference(&mut self, name: &str, layers: usize, longest_sum: usize) {
        let reference = Reference::read(name);
        let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
        let tolerance = f32_tolerance(layers, longest_sum, largest(&expected));
        check_logits(name, &self.prefill(&prompt).concat(), &expected, tolerance);
        let greedy = reference.ids("greedy");
        assert_eq!(
            self.greedy(&prompt, greedy.len(), &[]),
            greedy,
            "{name}: greedy ids"
        );
    }

    /// Mean negative log probability of each token after the first, given those before it.
    pub(crate) fn mean_loss(&mut self, ids: &[u32], chunk_len: usize) -> f64 {
        let mut sum = 0.0;
        for start in (0..ids.len() - 1).step_by(chunk_len) {
            let end = (start + chunk_len).min(ids.len() - 1);
            let chunk = Chunk {
                sequence: 0,
                start,
                ids: &ids[start..end],
            };
            let logits = self.step(&[chunk], Rows::All);
            sum += logits
                .iter()
                .zip(&ids[start + 1..=end])
                .map(|(row, &next)| loss(row, next))
                .sum::<f64>();
        }
        sum / (ids.len() - 1) as f64
    }
}

pub(crate) fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().fold(
        (0, f32::MIN),
        |best, (i, &x)| if x > best.1 { (i, x) } else { best },
    );
    best.0 as u32
}

fn loss(row: &[f32], token: u32) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln() - f64::from(row[token as usize])
}
