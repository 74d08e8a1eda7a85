//! The argmax, and rows that leave no choice.

use ferrum_kernels::{
    Backend,
    cpu::CpuBackend,
    ops::{KNOWN, SampleRow, SamplingOps},
};

use crate::{
    fixture::{backends, buffer, logits, plain, sample},
    support::Random,
};

fn greedy() -> SampleRow<'static> {
    SampleRow {
        temperature: 0.0,
        ..plain()
    }
}

#[test]
fn only_what_a_mask_allows_is_chosen() {
    // 70 ids: a word and a half, and the likeliest are the last.
    let logits: Vec<f32> = (0..70).map(|id| id as f32).collect();
    let allowing = |ids: &[u32]| {
        let mut words = vec![0_u32; 3];
        ids.iter()
            .for_each(|id| words[*id as usize / 32] |= 1 << (id % 32));
        words
    };
    for backend in backends(1) {
        for (allowed, expected) in [
            (allowing(&[3, 31, 32]), 32),
            (allowing(&[69, 0]), 69),
            (allowing(&[40]), 40),
            (allowing(&[]), 0),
        ] {
            let row = SampleRow {
                temperature: 0.0,
                allowed: Some(&allowed),
                ..plain()
            };
            // Whatever the filters would keep without it.
            let drawn = SampleRow {
                temperature: 1e-3,
                top_k: 2,
                ..row.clone()
            };
            assert_eq!(sample(&backend, &logits, &[row, drawn]), [expected; 2]);
        }
        // A bias does not bring back what is not allowed.
        let biased = SampleRow {
            temperature: 0.0,
            logit_bias: &[(5, 1e9)],
            allowed: Some(&allowing(&[1, 2])),
            ..plain()
        };
        assert_eq!(sample(&backend, &logits, &[biased]), [2]);
    }
}

#[test]
fn greedy_is_the_first_of_the_largest_wherever_it_is() {
    for backend in backends(2) {
        for vocab in [1, 2, 15, 16, 17, 64, 1000, 49_152] {
            let mut random = Random(vocab as u64);
            let mut row = logits(&mut random, vocab);
            for _ in 0..20 {
                let (first, second) = (random.below(vocab), random.below(vocab));
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) + 1.0;
                (row[first], row[second]) = (largest, largest);
                assert_eq!(sample(&backend, &row, &[greedy()]), [first.min(second) as u32]);
            }
        }
    }
}

#[test]
fn what_was_drawn_is_fed_to_the_rows_that_ask_for_it() {
    for backend in backends(1) {
        let indices = |values: &[u32]| {
            let mut indices = backend.alloc_indices(values.len()).expect("memory");
            backend.write_indices(values, &mut indices).expect("room");
            indices
        };
        let mut ids = indices(&[1, 2, 3, 4]);
        backend
            .feed(&indices(&[70, 71, 72]), &indices(&[2, KNOWN, 0]), 3, &mut ids)
            .expect("ids");
        assert_eq!(ids[..], [72, 2, 70, 4]);
        let refused = backend.feed(&indices(&[70]), &indices(&[1]), 1, &mut ids);
        assert!(refused.is_err(), "nothing was drawn there");
    }
}

#[test]
fn a_step_brings_what_it_has_drawn() {
    let backend = CpuBackend::new(1);
    let mut drawn = backend.alloc_indices(3).expect("memory");
    let (mut step, mut tokens) = (Default::default(), vec![9]);
    for count in [3, 0, 2] {
        backend.begin_step(&mut step).expect("begun");
        backend.write_indices(&[4, 5, 6], &mut drawn).expect("room");
        backend.end_step(&mut step, &drawn, count).expect("ended");
        backend.write_indices(&[0; 3], &mut drawn).expect("room");
        backend.finish_step(&mut step, &mut tokens).expect("finished");
        assert_eq!(tokens, [4, 5, 6][..count]);
    }
    assert!(
        backend.end_step(&mut step, &drawn, 4).is_err(),
        "more than there are"
    );
}

#[test]
fn nan_and_minus_infinity_are_never_chosen_and_plus_infinity_is() {
    for backend in backends(1) {
        let mut row = vec![f32::NEG_INFINITY; 300];
        row[7] = f32::NAN;
        row[200] = -1e30;
        for choice in [
            greedy(),
            plain(),
            SampleRow { top_k: 5, ..plain() },
            SampleRow {
                top_p: 0.5,
                ..plain()
            },
        ] {
            assert_eq!(sample(&backend, &row, &[choice]), [200], "the only number");
        }
        row[40] = f32::INFINITY;
        for choice in [
            greedy(),
            plain(),
            SampleRow { top_k: 5, ..plain() },
            SampleRow {
                min_p: 0.5,
                ..plain()
            },
        ] {
            assert_eq!(sample(&backend, &row, &[choice]), [40]);
        }
        for nothing in [f32::NAN, f32::NEG_INFINITY] {
            for choice in [
                greedy(),
                plain(),
                SampleRow {
                    top_k: 2,
                    top_p: 0.5,
                    ..plain()
                },
            ] {
                assert_eq!(sample(&backend, &[nothing; 33], &[choice]), [0]);
            }
        }
    }
}

#[test]
fn filters_that_leave_one_token_are_greedy() {
    let mut random = Random(4);
    let mut row = logits(&mut random, 5000);
    row[1234] = 30.0;
    row[4321] = 30.0;
    let narrow = [
        SampleRow { top_k: 1, ..plain() },
        SampleRow {
            top_p: 0.0,
            ..plain()
        },
        SampleRow {
            top_p: 1e-9,
            ..plain()
        },
        SampleRow {
            top_k: 40,
            top_p: 1e-9,
            ..plain()
        },
    ];
    for backend in backends(1) {
        for (position, choice) in narrow.iter().enumerate() {
            let choice = SampleRow {
                position: position as u64,
                ..choice.clone()
            };
            assert_eq!(
                sample(&backend, &row, &[choice]),
                [1234],
                "of two alike the lower id"
            );
        }
        row[4321] = 29.0;
        for choice in [
            SampleRow {
                min_p: 1.0,
                ..plain()
            },
            SampleRow {
                temperature: 1e-30,
                ..plain()
            },
        ] {
            assert_eq!(sample(&backend, &row, &[choice]), [1234]);
        }
        row[4321] = 30.0;
    }
}

#[test]
fn greedy_follows_bias_and_penalties() {
    for backend in backends(1) {
        let row = [1.0, 5.0, 4.0, -2.0, 3.9];
        let choose = |choice: SampleRow<'_>| sample(&backend, &row, &[choice])[0];
        assert_eq!(choose(greedy()), 1);
        assert_eq!(
            choose(SampleRow {
                logit_bias: &[(1, -100.0), (3, 6.5)],
                ..greedy()
            }),
            3
        );
        // 5 / 1.3 = 3.85: below 3.9 and 4; then 4 / 1.3 as well.
        let repeated = SampleRow {
            repetition_penalty: 1.3,
            prompt: &[1],
            ..greedy()
        };
        assert_eq!(choose(repeated.clone()), 2);
        assert_eq!(
            choose(SampleRow {
                generated: &[2],
                ..repeated
            }),
            4
        );
        // The prompt does not count for presence and frequency.
        let present = SampleRow {
            presence_penalty: 1.05,
            prompt: &[1],
            ..greedy()
        };
        assert_eq!(choose(present.clone()), 1);
        assert_eq!(
            choose(SampleRow {
                generated: &[1, 1, 1],
                ..present
            }),
            2
        );
        let frequent = SampleRow {
            frequency_penalty: 0.4,
            ..greedy()
        };
        assert_eq!(
            choose(SampleRow {
                generated: &[1, 1],
                ..frequent.clone()
            }),
            1
        );
        assert_eq!(
            choose(SampleRow {
                generated: &[1, 1, 1],
                ..frequent
            }),
            2
        );
        // A negative logit is multiplied: the penalty lowers it too.
        let negative = sample(
            &backend,
            &[-1.0, -1.5],
            &[SampleRow {
                repetition_penalty: 2.0,
                generated: &[0],
                ..greedy()
            }],
        );
        assert_eq!(negative, [1]);
    }
}

#[test]
fn ids_past_the_vocabulary_are_refused() {
    let backend = CpuBackend::new(1);
    let logits = buffer(&backend, &[0.0; 10]);
    let mut out = backend.alloc_indices(1).expect("memory");
    for (row, reason) in [
        (
            SampleRow {
                logit_bias: &[(10, 1.0)],
                ..plain()
            },
            "logit_bias names token 10 of a vocabulary of 10",
        ),
        (
            SampleRow {
                repetition_penalty: 1.1,
                prompt: &[11],
                ..plain()
            },
            "prompt names token 11",
        ),
        (
            SampleRow {
                presence_penalty: 1.0,
                generated: &[12],
                ..plain()
            },
            "generated names token 12",
        ),
        (
            SampleRow {
                allowed: Some(&[1, 2]),
                ..plain()
            },
            "a mask of 2 words for a vocabulary of 10",
        ),
    ] {
        let error = backend
            .sample(&logits, 10, &[row], &mut out)
            .expect_err("no such token");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(backend.sample(&logits, 0, &[plain()], &mut out).is_err());
    assert!(backend.sample(&logits, 11, &[plain()], &mut out).is_err());
}
