//! What becomes of a projection on the way to attention: norms of heads, rotation, the copy into the cache.

use ferrum_kernels::{
    Backend,
    cuda::{CudaBuffer, CudaIndices, Element},
    ops::{AttentionOps, CacheSlots, HeadLayout, NormOps, PagedBatch, PagedView, QkNormWeights, RotaryStep},
};

use crate::{
    attention::{Caches, Chunk, HEADS, LAYER, Settings, layout, step},
    support::Random,
    twin::{ELEMENTS, Twin, unit},
};

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
    (positions, table): (&CudaIndices, &CudaBuffer),
    values: &[f32],
) {
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

/// A step of sequences of `lengths` tokens, each with one new row.
struct Decoding<'a> {
    twin: &'a Twin,
    heads: HeadLayout,
    lengths: &'a [usize],
    qkv: &'a [Vec<f32>],
    norm: Option<(&'a CudaBuffer, &'a CudaBuffer)>,
}

impl Decoding<'_> {
    /// The last tokens, fused or one after the other, then once more what the cache has of them: both results.
    fn run(&self, fused: bool) -> (Vec<f32>, Vec<f32>) {
        let (twin, heads, rows) = (self.twin, self.heads, self.lengths.len());
        let mut caches = Caches::new(twin, &mut Random(1), heads, 16, self.lengths);
        let settings = Settings { heads, window: None };
        for (sequence, len) in self.lengths.iter().enumerate().filter(|(_, len)| **len > 1) {
            let chunk = Chunk {
                sequence,
                from: 0,
                to: len - 1,
                qkv: &self.qkv[sequence],
            };
            step(twin, &mut caches, &settings, &[chunk]);
        }
        let (slots, positions, values, max_blocks) = self.last_tokens(&caches);
        let padded = caches.tables.iter().flat_map(|table| {
            let rest = std::iter::repeat_n(&0, max_blocks - table.len());
            table.iter().chain(rest).copied()
        });
        let (tables, _) = twin.indices(&padded.collect::<Vec<_>>());
        let ((mut qkv, _), (slots, _)) = (twin.buffers(&values), twin.indices(&slots));
        let ((later, _), (positions, _)) = (twin.buffers(&values), twin.indices(&positions));
        let (offsets, _) = twin.indices(&(0..=rows as u32).collect::<Vec<_>>());
        let (lens, _) = twin.indices(&self.lengths.iter().map(|&len| len as u32).collect::<Vec<_>>());
        let inv_freq: Vec<f32> = (0..heads.head_dim / 2).map(|i| 0.9_f32.powi(i as i32)).collect();
        let table = twin.gpu.prepare_rope(&inv_freq, 2000).expect("memory");
        let norm = self.norm.map(|(q, k)| QkNormWeights { q, k, eps: 1e-6 });
        let rotary = RotaryStep {
            positions: &positions,
            table: &table,
            rows,
        };
        let batch = PagedBatch {
            cu_seqlens_q: &offsets,
            context_lens: &lens,
            block_tables: &tables,
            max_blocks,
            num_seqs: rows,
            rows,
        };
        let to = CacheSlots {
            cache: &mut caches.gpu,
            layer: LAYER,
            slots: &slots,
        };
        let ((mut out, _), (mut again, _)) = (
            twin.outputs(rows * heads.q_width()),
            twin.outputs(rows * heads.q_width()),
        );
        let (gpu, scale) = (&twin.gpu, 0.1);
        let window = Some(600);
        if fused {
            let seen = PagedView {
                batch: &batch,
                scale,
                window,
            };
            gpu.norm_rope_attention(&mut qkv, heads, norm, rotary, to, seen, &mut out)
                .expect("attention");
        } else {
            gpu.norm_rope_write_kv(&mut qkv, heads, norm, rotary, to)
                .expect("a copy");
            gpu.paged_attention(&qkv, heads, &caches.gpu, LAYER, &batch, scale, window, &mut out)
                .expect("attention");
        }
        gpu.paged_attention(&later, heads, &caches.gpu, LAYER, &batch, scale, None, &mut again)
            .expect("attention");
        let read = |buffer| twin.read(buffer, rows * heads.q_width());
        (read(&out), read(&again))
    }

    /// Slots, positions and rows of the new tokens, and a stride of block tables.
    fn last_tokens(&self, caches: &Caches) -> (Vec<u32>, Vec<u32>, Vec<f32>, usize) {
        let (mut slots, mut positions, mut values) = (vec![], vec![], vec![]);
        for ((len, table), rows) in self.lengths.iter().zip(&caches.tables).zip(self.qkv) {
            let at = len - 1;
            slots.push(table[at / 16] * 16 + (at % 16) as u32);
            positions.push(at as u32);
            values.extend_from_slice(&rows[at * self.heads.qkv_width()..]);
        }
        let longest = caches.tables.iter().map(Vec::len).max().expect("a sequence");
        (slots, positions, values, longest + 1)
    }
}

#[test]
fn attention_that_makes_its_queries_and_keys_has_the_bits_of_its_parts() {
    for element in ELEMENTS {
        let twin = Twin::new(element);
        for heads in HEADS.map(layout) {
            let mut random = Random(5);
            let weights: Vec<f32> = (0..heads.head_dim).map(|_| 1.0 + random.unit()).collect();
            let more: Vec<f32> = (0..heads.head_dim).map(|_| 1.0 + random.unit()).collect();
            let ((q, _), (k, _)) = (twin.vectors(&weights), twin.vectors(&more));
            // One sequence, few, and as many as leave each one block.
            let many: Vec<usize> = (0..40).map(|i| 1 + 7 * i).collect();
            for lengths in [&[513][..], &[1, 16, 17, 300, 1030], &many] {
                let qkv: Vec<Vec<f32>> = lengths
                    .iter()
                    .map(|len| twin.random(&mut random, len * heads.qkv_width()))
                    .collect();
                for norm in [Some((&q, &k)), None] {
                    let decoding = Decoding {
                        twin: &twin,
                        heads,
                        lengths,
                        qkv: &qkv,
                        norm,
                    };
                    let (fused, parts) = (decoding.run(true), decoding.run(false));
                    assert!(fused.0.iter().all(|x| x.is_finite()), "{heads:?}, {lengths:?}");
                    assert_eq!(fused, parts, "{}, {heads:?}, {lengths:?}", element.name());
                }
            }
        }
    }
}
