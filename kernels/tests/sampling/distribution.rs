//! Drawn frequencies follow the distribution.

use ferrum_kernels::ops::SampleRow;

use crate::{
    fixture::{backends, distribution, logits, plain, sample},
    support::Random,
};

const DRAWS: usize = 20_000;

/// Pearson's statistic of `counts` against `expected` probabilities, and its bound.
///
/// Cells of fewer than 5 expected draws are put together (Cochran's rule). With `k` degrees of freedom the
/// statistic follows the chi-square distribution, whose cube root is nearly normal (Wilson and Hilferty 1931):
/// it is above `k (1 - 2 / 9k + z sqrt(2 / 9k))^3` with the probability that a normal variable is above `z`.
/// `z = 4.75` is one in a million; seeds are fixed, so that a sampler that is right stays right.
fn chi_square(counts: &[usize], expected: &[f64]) -> (f64, f64) {
    let draws: usize = counts.iter().sum();
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rest_count, mut rest_expected) = (0.0, 0.0);
    let mut add = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1;
    };
    for (&count, &probability) in counts.iter().zip(expected) {
        let expected = probability * draws as f64;
        if expected >= 5.0 {
            add(count as f64, expected);
        } else {
            rest_count += count as f64;
            rest_expected += expected;
        }
    }
    if rest_expected >= 5.0 {
        add(rest_count, rest_expected);
    }
    let freedom = f64::from((cells - 1).max(1));
    let spread = 2.0 / (9.0 * freedom);
    (statistic, freedom * (1.0 - spread + 4.75 * spread.sqrt()).powi(3))
}

fn check(name: &str, row: &[f32], choice: &SampleRow<'_>) {
    let expected = distribution(row, choice);
    for backend in backends(2) {
        let mut counts = vec![0; row.len()];
        for start in (0..DRAWS).step_by(500) {
            let rows: Vec<SampleRow<'_>> = (start..start + 500)
                .map(|position| SampleRow {
                    position: position as u64,
                    ..choice.clone()
                })
                .collect();
            for id in sample(&backend, row, &rows) {
                counts[id as usize] += 1;
            }
        }
        let dropped = counts
            .iter()
            .zip(&expected)
            .find(|(count, p)| **count > 0 && **p == 0.0);
        assert_eq!(
            dropped,
            None,
            "{name}, {}: drew a token that is filtered out",
            backend.isa()
        );
        let (statistic, bound) = chi_square(&counts, &expected);
        assert!(
            statistic <= bound,
            "{name}, {}: chi-square {statistic:.1} > {bound:.1}",
            backend.isa()
        );
    }
}

#[test]
fn frequencies_follow_the_filtered_distribution() {
    let mut random = Random(77);
    let row = logits(&mut random, 700);
    let prompt: Vec<u32> = (0..80).map(|_| random.below(700) as u32).collect();
    let generated: Vec<u32> = (0..80).map(|_| random.below(200) as u32).collect();
    let bias: Vec<(u32, f32)> = (0..20).map(|i| (i * 30, i as f32 - 10.0)).collect();
    let plain = || SampleRow {
        temperature: 1.5,
        ..plain()
    };
    check("plain", &row, &plain());
    check(
        "cold",
        &row,
        &SampleRow {
            temperature: 0.4,
            ..plain()
        },
    );
    check(
        "hot",
        &row,
        &SampleRow {
            temperature: 50.0,
            ..plain()
        },
    );
    check("top-k", &row, &SampleRow { top_k: 12, ..plain() });
    check(
        "top-p",
        &row,
        &SampleRow {
            top_p: 0.83,
            ..plain()
        },
    );
    check(
        "min-p",
        &row,
        &SampleRow {
            min_p: 0.02,
            ..plain()
        },
    );
    check(
        "all three",
        &row,
        &SampleRow {
            top_k: 100,
            top_p: 0.9,
            min_p: 0.01,
            ..plain()
        },
    );
    check(
        "bias",
        &row,
        &SampleRow {
            logit_bias: &bias,
            ..plain()
        },
    );
    check(
        "repetition",
        &row,
        &SampleRow {
            repetition_penalty: 1.4,
            prompt: &prompt,
            generated: &generated,
            ..plain()
        },
    );
    check(
        "presence",
        &row,
        &SampleRow {
            presence_penalty: 1.1,
            generated: &generated,
            ..plain()
        },
    );
    check(
        "frequency",
        &row,
        &SampleRow {
            frequency_penalty: -0.7,
            generated: &generated,
            ..plain()
        },
    );
    let everything = SampleRow {
        top_k: 200,
        top_p: 0.97,
        min_p: 0.001,
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        logit_bias: &bias,
        prompt: &prompt,
        generated: &generated,
        ..plain()
    };
    check("everything", &row, &everything);
}

#[test]
fn other_seeds_give_other_draws_of_the_same_distribution() {
    let mut random = Random(78);
    let row = logits(&mut random, 300);
    let mut all = Vec::new();
    for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
        let choice = SampleRow { seed, ..plain() };
        check("a seed", &row, &choice);
        let rows: Vec<SampleRow<'_>> = (0..64)
            .map(|position| SampleRow {
                position,
                ..choice.clone()
            })
            .collect();
        all.push(sample(
            &backends(1).last().expect("the portable one"),
            &row,
            &rows,
        ));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let mut random = Random(79);
    for vocab in [1000, 49_152] {
        let row = logits(&mut random, vocab);
        let choices = [
            SampleRow { seed: 5, ..plain() },
            SampleRow {
                seed: 5,
                top_k: 50,
                ..plain()
            },
            SampleRow {
                seed: 5,
                top_p: 0.9,
                ..plain()
            },
            SampleRow {
                seed: 5,
                min_p: 0.1,
                repetition_penalty: 1.1,
                prompt: &[1, 2, 3],
                ..plain()
            },
        ];
        let mut rows: Vec<SampleRow<'_>> = (0..40_u64)
            .map(|i| SampleRow {
                position: i / 4,
                ..choices[i as usize % 4].clone()
            })
            .collect();
        let together: Vec<Vec<u32>> = backends(3).map(|backend| sample(&backend, &row, &rows)).collect();
        for (backend, together) in backends(1).zip(&together) {
            for (row_of, id) in rows.iter().zip(together) {
                assert_eq!(sample(&backend, &row, std::slice::from_ref(row_of)), [*id]);
            }
        }
        rows.reverse();
        for (backend, together) in backends(2).zip(&together) {
            let mut reversed = sample(&backend, &row, &rows);
            reversed.reverse();
            assert_eq!(reversed, *together);
        }
    }
}
