use ferrum_kernels::{
    Backend,
    backend::{KvDtype, KvLayout},
    cpu::{CpuBuffer, CpuKvCache},
    cuda::{CudaBuffer, CudaKvCache, Element},
    ops::{AttentionMask, AttentionOps, HeadLayout, PagedBatch},
};

use crate::{
    support::Random,
    twin::{ELEMENTS, Twin, unit},
};

pub(crate) const HEADS: [(usize, usize, usize); 7] = [
    (9, 3, 64),
    (14, 2, 64),
    (16, 8, 128),
    (32, 8, 128),
    (40, 8, 128),
    (4, 2, 18),
    (20, 1, 64),
];
pub(crate) const LAYER: usize = 1;

pub(crate) fn layout((num_heads, num_kv_heads, head_dim): (usize, usize, usize)) -> HeadLayout {
    HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

/// Both devices' caches, and which blocks belong to whom.
pub(crate) struct Caches {
    pub(crate) gpu: CudaKvCache,
    cpu: CpuKvCache,
    block_size: usize,
    pub(crate) tables: Vec<Vec<u32>>,
}

impl Caches {
    /// Room for sequences of `lengths` tokens, their blocks mixed.
    pub(crate) fn new(
        twin: &Twin,
        random: &mut Random,
        heads: HeadLayout,
        block_size: usize,
        lengths: &[usize],
    ) -> Self {
        let counts: Vec<usize> = lengths.iter().map(|len| len.div_ceil(block_size)).collect();
        let num_blocks = counts.iter().sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        let mut take = |count: usize| -> Vec<u32> {
            (0..count)
                .map(|_| free.swap_remove(random.below(free.len())))
                .collect()
        };
        let tables = counts.into_iter().map(&mut take).collect();
        let kv = |dtype| KvLayout {
            num_layers: 2,
            num_kv_heads: heads.num_kv_heads,
            head_dim: heads.head_dim,
            block_size,
            num_blocks,
            dtype,
        };
        let dtype = twin.gpu.kv_dtype(ferrum_kernels::backend::KvPrecision::Exact);
        Self {
            gpu: twin.gpu.alloc_kv_cache(&kv(dtype)).expect("memory"),
            cpu: twin.cpu.alloc_kv_cache(&kv(KvDtype::F32)).expect("memory"),
            block_size,
            tables,
        }
    }
}

/// Tokens `from..to` of a sequence; `qkv` has all of its rows.
pub(crate) struct Chunk<'a> {
    pub(crate) sequence: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) qkv: &'a [f32],
}

pub(crate) struct Settings {
    pub(crate) heads: HeadLayout,
    pub(crate) window: Option<usize>,
}

/// Writes the chunks' keys and values on both devices and attends to them.
pub(crate) fn step(
    twin: &Twin,
    caches: &mut Caches,
    settings: &Settings,
    chunks: &[Chunk<'_>],
) -> (CudaBuffer, CpuBuffer) {
    let heads = settings.heads;
    let (mut slots, mut cu_seqlens, mut lens, mut tables, mut values) =
        (vec![], vec![0], vec![], vec![], vec![]);
    let max_blocks = caches.tables.iter().map(Vec::len).max().expect("a sequence") + 1;
    for chunk in chunks {
        let table = &caches.tables[chunk.sequence];
        let size = caches.block_size;
        slots.extend((chunk.from..chunk.to).map(|at| table[at / size] * size as u32 + (at % size) as u32));
        values.extend_from_slice(&chunk.qkv[chunk.from * heads.qkv_width()..chunk.to * heads.qkv_width()]);
        cu_seqlens.push(slots.len() as u32);
        lens.push(chunk.to as u32);
        tables.extend_from_slice(table);
        tables.resize(lens.len() * max_blocks, 0);
    }
    let rows = slots.len();
    let ((gpu, cpu), (slots, cpu_slots)) = (twin.buffers(&values), twin.indices(&slots));
    let (offsets, cpu_offsets) = twin.indices(&cu_seqlens);
    let ((lens, cpu_lens), (tables, cpu_tables)) = (twin.indices(&lens), twin.indices(&tables));
    twin.gpu
        .write_kv(&gpu, heads, &mut caches.gpu, LAYER, &slots, rows)
        .expect("a copy");
    twin.cpu
        .write_kv(&cpu, heads, &mut caches.cpu, LAYER, &cpu_slots, rows)
        .expect("a copy");
    let (mut out, mut expected) = twin.outputs(rows * heads.q_width());
    let scale = 1.0 / (heads.head_dim as f32).sqrt();
    let num_seqs = chunks.len();
    let batch = PagedBatch {
        cu_seqlens_q: &offsets,
        context_lens: &lens,
        block_tables: &tables,
        max_blocks,
        num_seqs,
        rows,
    };
    twin.gpu
        .paged_attention(
            &gpu,
            heads,
            &caches.gpu,
            LAYER,
            &batch,
            scale,
            settings.window,
            &mut out,
        )
        .expect("attention");
    let batch = PagedBatch {
        cu_seqlens_q: &cpu_offsets,
        context_lens: &cpu_lens,
        block_tables: &cpu_tables,
        max_blocks,
        num_seqs,
        rows,
    };
    twin.cpu
        .paged_attention(
            &cpu,
            heads,
            &caches.cpu,
            LAYER,
            &batch,
            scale,
            settings.window,
            &mut expected,
        )
        .expect("attention");
    (out, expected)
}

/// Values are in -1..1. Where probabilities are 16-bit for the product with values, each is off by half a unit, and so
/// at most is the whole; scores are sums of `head_dim` products, exponentials a few units off, sums over the context.
pub(crate) fn allowed(element: Element, head_dim: usize, context: usize) -> f64 {
    let probabilities = if element == Element::F32 {
        0.0
    } else {
        unit(element)
    };
    probabilities + 2.0_f64.powi(-23) * (16.0 + 8.0 * (head_dim as f64).sqrt() + (context as f64).sqrt())
}

#[test]
fn mixed_steps_of_prefill_and_decode_equal_the_cpu() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        for (case, heads) in HEADS.into_iter().map(layout).enumerate() {
            for block_size in [16, 5] {
                let mut random = Random(case as u64);
                let lengths = [37, 1, 300, 1030, 17, 64];
                let mut caches = Caches::new(&twin, &mut random, heads, block_size, &lengths);
                let qkv: Vec<Vec<f32>> = lengths
                    .iter()
                    .map(|len| twin.random(&mut random, len * heads.qkv_width()))
                    .collect();
                let settings = Settings {
                    heads,
                    window: [None, Some(1), Some(16), Some(100)][case % 4],
                };
                let chunk = |sequence: usize, from, to| Chunk {
                    sequence,
                    from,
                    to,
                    qkv: &qkv[sequence],
                };
                let steps = [
                    vec![chunk(3, 0, 1029)],
                    vec![chunk(2, 0, 250), chunk(4, 0, 16), chunk(5, 0, 63)],
                    vec![
                        chunk(0, 0, 37),
                        chunk(1, 0, 1),
                        chunk(2, 250, 299),
                        chunk(3, 1029, 1030),
                    ],
                    vec![chunk(2, 299, 300), chunk(4, 16, 17), chunk(5, 63, 64)],
                ];
                for chunks in steps {
                    let (out, expected) = step(&twin, &mut caches, &settings, &chunks);
                    let what = format!(
                        "paged attention, {heads:?}, window {:?}, blocks of {block_size}",
                        settings.window
                    );
                    twin.check(&what, &out, &expected, |_, _| {
                        allowed(element, heads.head_dim, 1030)
                    });
                }
            }
        }
    }
}

#[test]
fn decoding_many_sequences_and_long_ones_equals_the_cpu() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        for (heads, lengths) in [
            (layout((32, 8, 128)), vec![4097]),
            (layout((14, 2, 64)), vec![5000, 3]),
            // More splits than a cluster has blocks.
            (layout((2, 1, 64)), vec![8300]),
            (layout((16, 8, 128)), (0..64).map(|i| 1 + 13 * i).collect()),
            (layout((9, 3, 64)), (0..64).map(|i| 1 + 13 * i).collect()),
        ] {
            let mut random = Random(7);
            let mut caches = Caches::new(&twin, &mut random, heads, 16, &lengths);
            let qkv: Vec<Vec<f32>> = lengths
                .iter()
                .map(|len| twin.random(&mut random, len * heads.qkv_width()))
                .collect();
            let settings = Settings { heads, window: None };
            for (sequence, len) in lengths.iter().enumerate().filter(|(_, len)| **len > 1) {
                step(
                    &twin,
                    &mut caches,
                    &settings,
                    &[Chunk {
                        sequence,
                        from: 0,
                        to: len - 1,
                        qkv: &qkv[sequence],
                    }],
                );
            }
            let last = |(sequence, len): (usize, &usize)| Chunk {
                sequence,
                from: len - 1,
                to: *len,
                qkv: &qkv[sequence],
            };
            let chunks: Vec<_> = lengths.iter().enumerate().map(last).collect();
            // Twice: what a step leaves behind for the joining of splits must not disturb the next.
            for _ in 0..2 {
                let (out, expected) = step(&twin, &mut caches, &settings, &chunks);
                twin.check("decode", &out, &expected, |_, _| {
                    allowed(element, heads.head_dim, 8300)
                });
            }
        }
    }
}

#[test]
fn sequences_without_a_cache_equal_the_cpu() {
    let lengths = [1, 15, 16, 0, 17, 77, 300];
    for element in ELEMENTS {
        let twin = Twin::new(element);
        for heads in [(12, 12, 32), (9, 3, 64), (4, 2, 18)].map(layout) {
            for mask in [AttentionMask::Bidirectional, AttentionMask::Causal] {
                let mut random = Random(9);
                let rows: usize = lengths.iter().sum();
                let values = twin.random(&mut random, rows * heads.qkv_width());
                let (gpu, cpu) = twin.buffers(&values);
                let ends = lengths.iter().scan(0, |end, len| {
                    *end += *len as u32;
                    Some(*end)
                });
                let (offsets, cpu_offsets) = twin.indices(&[0].into_iter().chain(ends).collect::<Vec<_>>());
                let (mut out, mut expected) = twin.outputs(rows * heads.q_width());
                let scale = 1.0 / (heads.head_dim as f32).sqrt();
                let seqs = lengths.len();
                twin.gpu
                    .varlen_attention(&gpu, heads, &offsets, seqs, mask, scale, &mut out)
                    .expect("attention");
                twin.cpu
                    .varlen_attention(&cpu, heads, &cpu_offsets, seqs, mask, scale, &mut expected)
                    .expect("attention");
                twin.check("varlen attention", &out, &expected, |_, _| {
                    allowed(element, heads.head_dim, 300)
                });
            }
        }
    }
}
