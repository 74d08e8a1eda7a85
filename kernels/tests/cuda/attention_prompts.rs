//! Attention of prompts: many of them, and in parts.

use ferrum_kernels::cuda::Element;

use crate::{
    attention::{Caches, Chunk, Settings, allowed, layout, step},
    support::Random,
    twin::Twin,
};

#[test]
fn prompts_of_many_sequences_equal_the_cpu() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        for (heads, window) in [
            (layout((32, 8, 128)), None),
            (layout((14, 2, 64)), None),
            (layout((12, 12, 64)), Some(40)),
        ] {
            let mut random = Random(17);
            let lengths: Vec<usize> = (0..70).map(|i| 1 + (i * 37) % 150).collect();
            let mut caches = Caches::new(&twin, &mut random, heads, 16, &lengths);
            let qkv: Vec<Vec<f32>> = lengths
                .iter()
                .map(|len| twin.random(&mut random, len * heads.qkv_width()))
                .collect();
            let chunks: Vec<_> = (0..lengths.len())
                .map(|sequence| Chunk {
                    sequence,
                    from: 0,
                    to: lengths[sequence],
                    qkv: &qkv[sequence],
                })
                .collect();
            let settings = Settings { heads, window };
            let (out, expected) = step(&twin, &mut caches, &settings, &chunks);
            twin.check("prompts", &out, &expected, |_, _| {
                allowed(element, heads.head_dim, 150)
            });
        }
    }
}

#[test]
fn a_row_of_a_prompt_attends_alike_whole_in_chunks_and_in_company() {
    for element in [Element::F16, Element::Bf16] {
        let twin = Twin::new(element);
        for heads in [(32, 8, 128), (9, 3, 64), (16, 16, 128)].map(layout) {
            for window in [None, Some(100)] {
                let mut random = Random(23);
                let lengths = [300, 77, 515];
                let qkv: Vec<Vec<f32>> = lengths
                    .iter()
                    .map(|len| twin.random(&mut random, len * heads.qkv_width()))
                    .collect();
                let settings = Settings { heads, window };
                let mut run = |steps: &[&[(usize, usize, usize)]]| {
                    let mut caches = Caches::new(&twin, &mut random, heads, 16, &lengths);
                    let mut rows: Vec<Vec<f32>> = vec![vec![]; lengths.len()];
                    for chunks in steps {
                        let chunks = chunks.iter().map(|&(sequence, from, to)| Chunk {
                            sequence,
                            from,
                            to,
                            qkv: &qkv[sequence],
                        });
                        let chunks: Vec<_> = chunks.collect();
                        let (out, _) = step(&twin, &mut caches, &settings, &chunks);
                        let total: usize = chunks.iter().map(|chunk| chunk.to - chunk.from).sum();
                        let values = twin.read(&out, total * heads.q_width());
                        let mut left = values.as_slice();
                        for chunk in &chunks {
                            let (own, rest) = left.split_at((chunk.to - chunk.from) * heads.q_width());
                            rows[chunk.sequence].extend_from_slice(own);
                            left = rest;
                        }
                    }
                    rows
                };
                let whole = run(&[&[(0, 0, 300)], &[(1, 0, 77)], &[(2, 0, 515)]]);
                let parts = run(&[
                    &[(2, 0, 130), (0, 0, 2)],
                    &[(0, 2, 50), (1, 0, 40), (2, 130, 391)],
                    &[(1, 40, 77), (2, 391, 515), (0, 50, 300)],
                ]);
                assert!(whole == parts, "{heads:?}, window {window:?}, {element:?}");
            }
        }
    }
}
