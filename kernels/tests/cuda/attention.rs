use ferrum_kernels::{
    Backend,
    backend::{KvDtype, KvLayout},
    cpu::{CpuBuffer, CpuKvCache},
    cuda::{CudaBuffer, CudaKvCache, Element},
    ops::{AttentionMask, AttentionOps, CacheSlots, HeadLayout, PagedBatch, QkNormWeights, RotaryStep},
};

use crate::{
    support::Random,
    twin::{ELEMENTS, Twin, unit},
};

const HEADS: [(usize, usize, usize); 7] = [
    (9, 3, 64),
    (14, 2, 64),
    (16, 8, 128),
    (32, 8, 128),
    (40, 8, 128),
    (4, 2, 18),
    (20, 1, 64),
];
const LAYER: usize = 1;

pub(crate) fn layout((num_heads, num_kv_heads, head_dim): (usize, usize, usize)) -> HeadLayout {
    HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

/// Both devices' caches, and which blocks belong to whom.
pub(crate) struct Caches {
    gpu: CudaKvCache,
    cpu: CpuKvCache,
    block_size: usize,
    tables: Vec<Vec<u32>>,
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

#[test]
fn rotation_equals_the_cpu_and_the_fusion_equals_its_parts() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        // Many rows are turned by another kernel.
        for (heads, rows) in [33, 150]
            .iter()
            .flat_map(|rows| HEADS.map(|heads| (layout(heads), *rows)))
        {
            let mut random = Random(11);
            let half = heads.head_dim / 2;
            let inv_freq: Vec<f32> = (0..half)
                .map(|i| 10_000_f32.powf(-2.0 * i as f32 / heads.head_dim as f32))
                .collect();
            let table = twin.gpu.prepare_rope(&inv_freq, 3000).expect("memory");
            let cpu_table = twin.cpu.prepare_rope(&inv_freq, 3000).expect("memory");
            let positions: Vec<u32> = (0..rows).map(|_| random.below(3000) as u32).collect();
            let (positions, cpu_positions) = twin.indices(&positions);
            let values = twin.random(&mut random, rows * heads.qkv_width());
            let (mut qkv, mut expected) = twin.buffers(&values);
            twin.gpu
                .rope(&mut qkv, heads, &positions, &table, rows)
                .expect("a rotation");
            twin.cpu
                .rope(&mut expected, heads, &cpu_positions, &cpu_table, rows)
                .expect("a rotation");
            // Two products and their sum, on both sides.
            twin.check("rope", &qkv, &expected, |_, _| 8.0 * 2.0_f64.powi(-24));
            check_fusion(&twin, &mut random, heads, (&positions, &table), &values);
        }
    }
}

/// The norm, the rotation and the copy, fused and one by one: the same queries, and the same attention to what was copied.
fn check_fusion(
    twin: &Twin,
    random: &mut Random,
    heads: HeadLayout,
    (positions, table): (&ferrum_kernels::cuda::CudaIndices, &CudaBuffer),
    values: &[f32],
) {
    use ferrum_kernels::ops::NormOps;
    let rows = values.len() / heads.qkv_width();
    let weights: Vec<f32> = (0..heads.head_dim).map(|_| 1.0 + random.unit()).collect();
    let ((q, _), (k, _)) = (twin.vectors(&weights), twin.vectors(&weights[..heads.head_dim]));
    for normed in [true, false] {
        let mut results = Vec::new();
        for fused in [true, false] {
            let mut order = Random(1);
            let mut caches = Caches::new(twin, &mut order, heads, 16, &[rows]);
            let table_of = caches.tables[0].clone();
            let slots: Vec<u32> = (0..rows)
                .map(|at| table_of[at / 16] * 16 + (at % 16) as u32)
                .collect();
            let ((slots, _), (mut qkv, _)) = (twin.indices(&slots), twin.buffers(values));
            let norm = normed.then_some(QkNormWeights {
                q: &q,
                k: &k,
                eps: 1e-6,
            });
            let rotary = RotaryStep {
                positions,
                table,
                rows,
            };
            if fused {
                let to = CacheSlots {
                    cache: &mut caches.gpu,
                    layer: LAYER,
                    slots: &slots,
                };
                twin.gpu
                    .norm_rope_write_kv(&mut qkv, heads, norm, rotary, to)
                    .expect("a copy");
            } else {
                if normed {
                    twin.gpu
                        .qk_norm(&mut qkv, heads, (&q, &k), 1e-6, rows)
                        .expect("a norm");
                }
                twin.gpu
                    .rope(&mut qkv, heads, positions, table, rows)
                    .expect("a rotation");
                twin.gpu
                    .write_kv(&qkv, heads, &mut caches.gpu, LAYER, &slots, rows)
                    .expect("a copy");
            }
            let ((offsets, _), (lens, _)) = (twin.indices(&[0, rows as u32]), twin.indices(&[rows as u32]));
            let (tables, _) = twin.indices(&table_of);
            let batch = PagedBatch {
                cu_seqlens_q: &offsets,
                context_lens: &lens,
                block_tables: &tables,
                max_blocks: table_of.len(),
                num_seqs: 1,
                rows,
            };
            let (mut out, _) = twin.outputs(rows * heads.q_width());
            twin.gpu
                .paged_attention(&qkv, heads, &caches.gpu, LAYER, &batch, 0.1, None, &mut out)
                .expect("attention");
            results.push((
                twin.read(&qkv, values.len()),
                twin.read(&out, rows * heads.q_width()),
            ));
        }
        // The squares of a head are summed in another order, which moves the norm's scale by some units of f32; that may
        // tip the rounding of a normed element (up to 3.5) and of a rotated one (up to 4.9) by a unit of their own.
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let scale = 4.9 * (8.0 + (heads.head_dim as f64).sqrt()) * unit(Element::F32);
        let bound = if normed {
            (20.0 * unit(twin.element) + scale) as f32
        } else {
            0.0
        };
        assert!(far(&results[0].0, &results[1].0) <= bound, "{heads:?}");
        // Of independent errors in a score of head_dim products, times 0.1, comes less than that of one element.
        assert!(far(&results[0].1, &results[1].1) <= 4.0 * bound, "{heads:?}");
    }
}
