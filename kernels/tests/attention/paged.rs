//! Paged attention against f64 arithmetic.

use ferrum_kernels::{backend::KvDtype, cpu::CpuBackend};
use half::f16;

use crate::{
    fixture::{Attention, Chunk, HEADS, Sequence, exact, isas, sequences, step},
    support::Random,
};

/// Keys and values of a head as the cache keeps them.
fn cached(sequence: &Sequence, attention: Attention, dtype: KvDtype, offset: usize) -> Vec<Vec<f64>> {
    let heads = attention.heads;
    sequence
        .qkv
        .chunks_exact(heads.qkv_width())
        .map(|row| {
            row[offset..offset + heads.head_dim]
                .iter()
                .map(|&x| match dtype {
                    KvDtype::F32 => f64::from(x),
                    KvDtype::F16 => f16::from_f32(x).to_f64(),
                })
                .collect()
        })
        .collect()
}

/// Compares the rows of one chunk, `out` `(to - from, q_width)`, with f64 arithmetic.
fn check(out: &[f32], chunk: &Chunk<'_>, attention: Attention, dtype: KvDtype) {
    let Attention {
        heads, scale, window, ..
    } = attention;
    let group = heads.num_heads / heads.num_kv_heads;
    for head in 0..heads.num_heads {
        let key = heads.q_width() + head / group * heads.head_dim;
        let keys = cached(chunk.sequence, attention, dtype, key);
        let values = cached(chunk.sequence, attention, dtype, key + heads.kv_width());
        for position in chunk.from..chunk.to {
            let q =
                &chunk.sequence.qkv[position * heads.qkv_width() + head * heads.head_dim..][..heads.head_dim];
            let seen = (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..position + 1;
            let (expected, allowed) = exact(q, &keys[seen.clone()], &values[seen], scale);
            let at = (position - chunk.from) * heads.q_width() + head * heads.head_dim;
            for (out, expected) in out[at..].iter().zip(expected) {
                let error = (f64::from(*out) - expected).abs();
                assert!(
                    error <= allowed,
                    "{attention}, {dtype:?}, head {head}, position {position}: {out}, exactly {expected}, off \
                     by {error:e}, {allowed:e} allowed",
                    attention = format_args!("{heads:?} window {window:?}")
                );
            }
        }
    }
}

#[test]
fn a_mixed_step_of_prefill_and_decode_matches_f64_arithmetic() {
    for isa in isas() {
        let backend = CpuBackend::with_isa(2, isa);
        for (case, heads) in HEADS.into_iter().enumerate() {
            for (dtype, block_size) in [
                (KvDtype::F16, 16),
                (KvDtype::F32, 16),
                (KvDtype::F16, 5),
                (KvDtype::F32, 48),
            ] {
                let mut random = Random(case as u64);
                let (sequences, mut cache) = sequences(
                    &mut random,
                    &backend,
                    (heads, dtype, block_size),
                    &[37, 1, 300, 530],
                );
                let attention = Attention {
                    heads,
                    layer: 1,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                    window: [None, Some(1), Some(16), Some(100), Some(300)][case % 5],
                };
                let chunk = |index: usize, from: usize, to: usize| Chunk {
                    sequence: &sequences[index],
                    from,
                    to,
                };
                // The earlier tokens of the third (a chunk's prefix) and the fourth (decoding) come first.
                step(
                    &backend,
                    &mut cache,
                    attention,
                    &[chunk(2, 0, 250), chunk(3, 0, 529)],
                );
                let chunks = [
                    chunk(0, 0, 37),
                    chunk(1, 0, 1),
                    chunk(2, 250, 300),
                    chunk(3, 529, 530),
                ];
                let out = step(&backend, &mut cache, attention, &chunks);
                let mut row = 0;
                for chunk in &chunks {
                    check(&out[row * heads.q_width()..], chunk, attention, dtype);
                    row += chunk.to - chunk.from;
                }
            }
        }
    }
}
