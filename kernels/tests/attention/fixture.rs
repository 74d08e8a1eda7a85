//! Attention in plain f64, and sequences in a paged cache.

use ferrum_kernels::{
    Backend,
    backend::{KvDtype, KvLayout},
    cpu::{CpuBackend, CpuKvCache, Isa, KvStorage, detect},
    ops::{AttentionOps, HeadLayout, PagedBatch},
};
use half::f16;

use crate::support::Random;

/// Keys that are normalised together; longer contexts are merged from such tiles.
pub(crate) const TILE: usize = 256;

/// Unit roundoff of f32.
pub(crate) const U: f64 = 1.0 / (1 << 24) as f64;

pub(crate) const fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> HeadLayout {
    HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

/// SmolLM2, Qwen2-0.5B, Qwen3-0.6B, the tiny checkpoints, MiniLM, and shapes of no model: one key head, more
/// query heads a key head than a block has rows, elements that fill no vector.
pub(crate) const HEADS: [HeadLayout; 9] = [
    heads(9, 3, 64),
    heads(14, 2, 64),
    heads(16, 8, 128),
    heads(4, 2, 16),
    heads(4, 2, 32),
    heads(12, 12, 32),
    heads(5, 1, 48),
    heads(26, 2, 16),
    heads(6, 2, 20),
];

pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx]
        .into_iter()
        .filter(|isa| *isa <= detect())
}

/// One query head's attention over rows of keys and values, and how far f32 arithmetic may be off.
///
/// With `u = 2^-24`: a score is a sum of `d` products of a scaled (rounded) query, so off by at most
/// `(d + 3) u S`, where `S = scale * sum |q k|`; the difference to the maximum rounds once more (`u |s - m|`,
/// and `|s - m| <= 2 S`). Its power has a relative error of that, plus `4 u` of the exponential itself. The
/// weighted mean of values moves by at most twice that error (numerator and denominator) times `max |v|`. The
/// sums over a tile add `(TILE + 20) u`, each merge of a tile 8 more roundings. First order throughout; the
/// factor 1.01 covers the rest.
pub(crate) fn exact(q: &[f32], keys: &[Vec<f64>], values: &[Vec<f64>], scale: f32) -> (Vec<f64>, f64) {
    let scale = f64::from(scale);
    let dot = |k: &Vec<f64>| q.iter().zip(k).map(|(&q, k)| f64::from(q) * k).sum::<f64>() * scale;
    let scores: Vec<f64> = keys.iter().map(dot).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; q.len()];
    for (weight, value) in weights.iter().zip(values) {
        for (out, v) in out.iter_mut().zip(value) {
            *out += weight / sum * v;
        }
    }
    let magnitude = |k: &Vec<f64>| {
        q.iter()
            .zip(k)
            .map(|(&q, k)| (f64::from(q) * k).abs())
            .sum::<f64>()
    };
    let largest_score = keys.iter().map(magnitude).fold(0.0, f64::max) * scale;
    let largest_value = values.iter().flatten().fold(0.0, |max: f64, v| max.max(v.abs()));
    let weight_error = (q.len() as f64 + 5.0) * U * largest_score + 4.0 * U;
    let tiles = keys.len().div_ceil(TILE) + 1;
    let sum_error = (TILE + 20 + 8 * tiles) as f64 * U;
    (out, 1.01 * (2.0 * weight_error + sum_error) * largest_value)
}

/// One sequence: all its rows `(tokens, qkv_width)`, and its blocks in the cache.
pub(crate) struct Sequence {
    pub(crate) qkv: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) blocks: Vec<u32>,
}

/// Sequences of the given lengths, and a poisoned cache whose blocks they own in random order.
pub(crate) fn sequences(
    random: &mut Random,
    backend: &CpuBackend,
    (heads, dtype, block_size): (HeadLayout, KvDtype, usize),
    lengths: &[usize],
) -> (Vec<Sequence>, CpuKvCache) {
    let needed: usize = lengths.iter().map(|len| len.div_ceil(block_size)).sum();
    let num_blocks = needed + 5;
    let mut free: Vec<u32> = (0..num_blocks as u32).collect();
    let sequences = lengths
        .iter()
        .map(|&tokens| Sequence {
            qkv: (0..tokens * heads.qkv_width())
                .map(|_| 2.0 * random.unit())
                .collect(),
            tokens,
            blocks: (0..tokens.div_ceil(block_size))
                .map(|_| free.swap_remove(random.below(free.len())))
                .collect(),
        })
        .collect();
    let mut cache = backend
        .alloc_kv_cache(&KvLayout {
            num_layers: 2,
            num_kv_heads: heads.num_kv_heads,
            head_dim: heads.head_dim,
            block_size,
            num_blocks,
            dtype,
        })
        .expect("memory for a small cache");
    match &mut cache.storage {
        KvStorage::F32(elements) => elements.fill(f32::NAN),
        KvStorage::F16(elements) => elements.fill(f16::NAN.to_bits()),
    }
    (sequences, cache)
}

/// What one step does with one sequence: tokens `from..to` are computed.
pub(crate) struct Chunk<'a> {
    pub(crate) sequence: &'a Sequence,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// How a step attends.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) heads: HeadLayout,
    pub(crate) layer: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
}

/// Writes the chunks' keys and values into the cache and attends; `(rows, q_width)`.
pub(crate) fn step(
    backend: &CpuBackend,
    cache: &mut CpuKvCache,
    attention: Attention,
    chunks: &[Chunk<'_>],
) -> Vec<f32> {
    let block_size = cache.layout().block_size;
    let width = attention.heads.qkv_width();
    let (mut qkv, mut slots) = (Vec::new(), Vec::new());
    let (mut cu_seqlens, mut context_lens, mut tables) = (vec![0], Vec::new(), Vec::new());
    let max_blocks = chunks
        .iter()
        .map(|chunk| chunk.to.div_ceil(block_size))
        .max()
        .unwrap_or(0)
        + 1;
    for Chunk { sequence, from, to } in chunks {
        qkv.extend_from_slice(&sequence.qkv[from * width..to * width]);
        slots.extend(
            (*from..*to)
                .map(|at| sequence.blocks[at / block_size] * block_size as u32 + (at % block_size) as u32),
        );
        cu_seqlens.push(slots.len() as u32);
        context_lens.push(*to as u32);
        // Entries past the context name no block.
        let used = to.div_ceil(block_size);
        tables.extend_from_slice(&sequence.blocks[..used]);
        tables.resize(tables.len() + max_blocks - used, u32::MAX);
    }
    let indices = |values: &[u32]| {
        let mut buffer = backend.alloc_indices(values.len()).expect("memory");
        backend.write_indices(values, &mut buffer).expect("it fits");
        buffer
    };
    let rows = slots.len();
    let mut buffer = backend.alloc(qkv.len()).expect("memory");
    backend.write(&qkv, &mut buffer).expect("it fits");
    let mut out = backend.alloc(rows * attention.heads.q_width()).expect("memory");
    out.fill(f32::NAN);
    let Attention {
        heads,
        layer,
        scale,
        window,
    } = attention;
    backend
        .write_kv(&buffer, heads, cache, layer, &indices(&slots), rows)
        .expect("slots within the cache");
    let batch = PagedBatch {
        cu_seqlens_q: &indices(&cu_seqlens),
        context_lens: &indices(&context_lens),
        block_tables: &indices(&tables),
        max_blocks,
        num_seqs: chunks.len(),
        rows,
    };
    backend
        .paged_attention(&buffer, heads, cache, layer, &batch, scale, window, &mut out)
        .expect("a well-formed step");
    out.to_vec()
}
