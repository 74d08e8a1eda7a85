//! A causal model on several devices, each driven by a thread.

use std::{path::Path, thread};

use ferrum_kernels::Backend;
use ferrum_models::LoadOptions;

use super::decoder::{Chunk, Decoder, Rows, argmax};

pub(crate) struct Ranks<B: Backend> {
    decoders: Vec<Decoder<B>>,
}

impl<B: Backend> Ranks<B> {
    pub(crate) fn load_on(backends: Vec<B>, path: &Path) -> Self {
        let load = |backend| Decoder::load_on(backend, path, &LoadOptions::default());
        let decoders = thread::scope(|scope| {
            let threads: Vec<_> = backends
                .into_iter()
                .map(|backend| scope.spawn(move || load(backend)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|decoder| decoder.expect("a rank that loads"))
                .collect()
        });
        Self { decoders }
    }

    /// The logits of the first rank.
    pub(crate) fn step(&mut self, chunks: &[Chunk<'_>], rows: Rows) -> Vec<Vec<f32>> {
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .decoders
                .iter_mut()
                .map(|decoder| scope.spawn(|| decoder.step(chunks, rows)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            let mut logits: Vec<_> = joined.map(|logits| logits.expect("a step")).collect();
            logits.swap_remove(0)
        })
    }

    /// Logits of every position of a prompt, computed in one step.
    pub(crate) fn prefill(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let (sequence, start) = (0, 0);
        self.step(&[Chunk { sequence, start, ids }], Rows::All)
    }

    /// The likeliest token again and again.
    pub(crate) fn greedy(&mut self, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
        let mut ids = prompt.to_vec();
        let (mut start, sequence) = (0, 0);
        for _ in 0..max_tokens {
            let chunk = Chunk {
                sequence,
                start,
                ids: &ids[start..],
            };
            let next = argmax(&self.step(&[chunk], Rows::Last)[0]);
            start = ids.len();
            ids.push(next);
        }
        ids.split_off(prompt.len())
    }
}
