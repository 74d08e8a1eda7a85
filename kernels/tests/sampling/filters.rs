//! Which tokens top-k, top-p and min-p keep.

use ferrum_kernels::ops::SampleRow;

use crate::{
    fixture::{backends, distribution, logits, plain, sample},
    support::Random,
};

const DRAWS: u64 = 400;

/// Draws at many positions, none of which may be a token that the reference drops.
fn check_kept(vocab: usize, row: &[f32], choice: &SampleRow<'_>) {
    let expected = distribution(row, choice);
    for backend in backends(2) {
        let rows: Vec<SampleRow<'_>> = (0..DRAWS)
            .map(|position| SampleRow {
                position,
                ..choice.clone()
            })
            .collect();
        for rows in rows.chunks(50) {
            for id in sample(&backend, row, rows) {
                assert!(
                    expected[id as usize] > 0.0,
                    "{}: {id} of {vocab} has logit {}, and {choice:?} drops it",
                    backend.isa(),
                    row[id as usize]
                );
            }
        }
    }
}

#[test]
fn no_draw_leaves_what_the_filters_keep() {
    for vocab in [5, 100, 3000, 20_000] {
        let mut random = Random(vocab as u64);
        let mut row = logits(&mut random, vocab);
        for top_k in [0, 1, 3, 50, 2999] {
            for (top_p, min_p) in [(1.0, 0.0), (0.3, 0.0), (0.95, 0.0), (1.0, 0.05), (0.9, 0.2)] {
                // Warm, so that the tokens just past an edge would be drawn.
                check_kept(
                    vocab,
                    &row,
                    &SampleRow {
                        temperature: 3.0,
                        top_k,
                        top_p,
                        min_p,
                        ..plain()
                    },
                );
            }
        }
        // Many ties: the edge falls between tokens alike.
        for x in &mut row {
            *x = x.round();
        }
        for top_k in [0, 7, 100] {
            check_kept(
                vocab,
                &row,
                &SampleRow {
                    temperature: 2.0,
                    top_k,
                    top_p: 0.77,
                    ..plain()
                },
            );
        }
    }
}

#[test]
fn ascending_and_descending_and_equal_logits_are_filtered_alike() {
    let vocab = 4000;
    let rising: Vec<f32> = (0..vocab).map(|i| i as f32 * 1e-3).collect();
    let falling: Vec<f32> = rising.iter().rev().copied().collect();
    for row in [rising, falling, vec![1.5; vocab]] {
        for (top_k, top_p) in [(10, 1.0), (0, 0.5), (500, 0.5), (3999, 0.999)] {
            check_kept(
                vocab,
                &row,
                &SampleRow {
                    top_k,
                    top_p,
                    ..plain()
                },
            );
        }
    }
}
