//! A query's result has the same bits however its sequence was cut, placed and accompanied.

use ferrum_kernels::{backend::KvDtype, cpu::CpuBackend};

use crate::{
    fixture::{Attention, Chunk, HEADS, Sequence, isas, sequences, step},
    support::Random,
};

/// Each sequence in one piece, alone, on one thread.
fn alone(
    backend: &CpuBackend,
    cache: &mut ferrum_kernels::cpu::CpuKvCache,
    attention: Attention,
    sequences: &[Sequence],
) -> Vec<Vec<f32>> {
    sequences
        .iter()
        .map(|sequence| {
            let whole = Chunk {
                sequence,
                from: 0,
                to: sequence.tokens,
            };
            step(backend, cache, attention, &[whole])
        })
        .collect()
}

/// Length of the next chunk: often one token, as in decoding.
fn chunk_len(random: &mut Random, left: usize) -> usize {
    let len = match random.below(4) {
        0 => 1 + random.below(400),
        1 => 1 + random.below(40),
        _ => 1,
    };
    len.min(left)
}

/// Computes all sequences in random chunks, some of them in each step, and compares with `expected`.
fn check_chunked(
    random: &mut Random,
    backend: &CpuBackend,
    (cache, attention): (&mut ferrum_kernels::cpu::CpuKvCache, Attention),
    sequences: &[Sequence],
    expected: &[Vec<f32>],
) {
    let width = attention.heads.q_width();
    let mut done = vec![0; sequences.len()];
    while sequences
        .iter()
        .zip(&done)
        .any(|(sequence, done)| *done < sequence.tokens)
    {
        let mut step_of = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let left = sequence.tokens - done[index];
            if left > 0 && random.below(4) > 0 {
                let from = done[index];
                let to = from + chunk_len(random, left);
                step_of.push((index, Chunk { sequence, from, to }));
                done[index] = to;
            }
        }
        let (indices, chunks): (Vec<usize>, Vec<Chunk<'_>>) = step_of.into_iter().unzip();
        let out = step(backend, cache, attention, &chunks);
        let mut row = 0;
        for (index, chunk) in indices.into_iter().zip(chunks) {
            let len = (chunk.to - chunk.from) * width;
            let expected = &expected[index][chunk.from * width..][..len];
            let same = out[row..row + len]
                .iter()
                .zip(expected)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(
                same,
                "tokens {}..{} of sequence {index}: {:?}",
                chunk.from, chunk.to, attention.heads
            );
            row += len;
        }
    }
}

#[test]
fn chunks_company_blocks_and_threads_never_change_a_bit() {
    for isa in isas() {
        let single = CpuBackend::with_isa(1, isa);
        let shared = CpuBackend::with_isa(5, isa);
        for (case, heads) in HEADS.into_iter().enumerate() {
            for window in [None, Some([7, 16, 100, 260][case % 4])] {
                let dtype = [KvDtype::F16, KvDtype::F32][case % 2];
                let block_size = [16, 16, 32, 8][case % 4];
                let attention = Attention {
                    heads,
                    layer: 0,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                    window,
                };
                let mut random = Random(100 + case as u64);
                let shape = (heads, dtype, block_size);
                let (mut sequences, mut cache) = sequences(&mut random, &single, shape, &[600, 257, 33, 256]);
                let expected = alone(&single, &mut cache, attention, &sequences);
                // Same tokens in other blocks.
                let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens).collect();
                let (moved, mut cache) = crate::fixture::sequences(&mut random, &shared, shape, &lengths);
                for (sequence, moved) in sequences.iter_mut().zip(moved) {
                    sequence.blocks = moved.blocks;
                }
                check_chunked(
                    &mut random,
                    &shared,
                    (&mut cache, attention),
                    &sequences,
                    &expected,
                );
            }
        }
    }
}

#[test]
fn a_prefix_that_another_sequence_computed_gives_the_same_bits() {
    let heads = HEADS[0];
    for isa in isas() {
        let backend = CpuBackend::with_isa(3, isa);
        let attention = Attention {
            heads,
            layer: 1,
            scale: 0.125,
            window: None,
        };
        let mut random = Random(9);
        let (mut sequences, mut cache) =
            sequences(&mut random, &backend, (heads, KvDtype::F16, 16), &[400, 400]);
        // The second sequence begins with 320 tokens of the first.
        let prefix = 320 * heads.qkv_width();
        let (first, second) = sequences.split_at_mut(1);
        second[0].qkv[..prefix].copy_from_slice(&first[0].qkv[..prefix]);
        let expected = alone(&backend, &mut cache, attention, &sequences);
        let shared: Vec<u32> = sequences[0].blocks[..20].to_vec();
        sequences[1].blocks[..20].copy_from_slice(&shared);
        let rest = Chunk {
            sequence: &sequences[1],
            from: 320,
            to: 400,
        };
        let out = step(&backend, &mut cache, attention, &[rest]);
        assert_eq!(out, expected[1][320 * heads.q_width()..]);
    }
}
