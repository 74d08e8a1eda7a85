use ferrum_kernels::{
    Backend,
    cuda::Element,
    ops::{SampleRow, SamplingOps},
};

use crate::{support::Random, twin::Twin};

const VOCABULARIES: [usize; 4] = [1000, 32_000, 49_152, 151_936];

fn greedy(position: u64) -> SampleRow<'static> {
    SampleRow {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: &[],
        prompt: &[],
        generated: &[],
        seed: 42,
        position,
    }
}

/// Logits as models give them: most far below a few.
fn logits(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len)
        .map(|_| {
            let x = random.unit();
            if random.below(200) == 0 {
                12.0 + 4.0 * x
            } else {
                4.0 * x
            }
        })
        .collect()
}

fn check(twin: &Twin, vocab: usize, values: &[f32], rows: &[SampleRow<'_>]) {
    let (mut gpu, cpu) = twin.exact_buffers(values);
    let poison = vec![u32::MAX; rows.len()];
    let (mut out, mut expected) = twin.indices(&poison);
    twin.gpu.sample(&gpu, vocab, rows, &mut out).expect("tokens");
    twin.cpu.sample(&cpu, vocab, rows, &mut expected).expect("tokens");
    let mut ids = vec![0; rows.len()];
    twin.gpu.read_indices_into(&out, &mut ids).expect("tokens");
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(ids[i], expected[i], "vocabulary {vocab}, row {i}: {row:?}");
    }
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(
        bits(&twin.read(&gpu, values.len())),
        bits(values),
        "logits are as before"
    );
    twin.gpu.write(&[], &mut gpu).expect("nothing");
}

#[test]
fn draws_are_the_cpus() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(1);
    let settings: [(f32, u32, f32, f32); 12] = [
        (0.0, 0, 1.0, 0.0),
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 0.9, 0.0),
        (1.0, 50, 1.0, 0.0),
        (0.8, 20, 0.95, 0.0),
        (1.3, 0, 1.0, 0.05),
        (1.0, 1, 1.0, 0.0),
        (1.0, 0, 0.0, 0.0),
        (2.0, 400, 0.99, 0.001),
        (1e-6, 0, 1.0, 0.0),
        (1.0, 0, 0.3, 0.5),
        (1.0, u32::MAX, 0.5, 0.0),
    ];
    for vocab in VOCABULARIES {
        for round in 0..6 {
            let values = logits(&mut random, vocab * 48);
            let rows: Vec<_> = (0..48)
                .map(|i| {
                    let (temperature, top_k, top_p, min_p) = settings[i % settings.len()];
                    SampleRow {
                        temperature,
                        top_k,
                        top_p,
                        min_p,
                        seed: random.bits(),
                        ..greedy(i as u64 + round)
                    }
                })
                .collect();
            check(&twin, vocab, &values, &rows);
        }
    }
}

#[test]
fn ties_are_kept_from_the_lowest_id() {
    let twin = Twin::new(Element::F32);
    let mut random = Random(2);
    for vocab in [40, 1000, 32_000] {
        // Few different logits, so that every threshold falls on a tie.
        let values: Vec<f32> = (0..vocab * 32).map(|_| random.below(4) as f32).collect();
        let rows: Vec<_> = (0..32)
            .map(|i| SampleRow {
                temperature: 1.0,
                top_k: [0, 7, 19, 33][i % 4],
                top_p: [1.0, 0.5, 0.03][i % 3],
                seed: random.bits(),
                ..greedy(i as u64)
            })
            .collect();
        check(&twin, vocab, &values, &rows);
    }
}

#[test]
fn bias_and_penalties_are_the_cpus() {
    let twin = Twin::new(Element::F32);
    let mut random = Random(3);
    for vocab in [1000, 49_152] {
        let values = logits(&mut random, vocab * 16);
        let ids: Vec<u32> = (0..300).map(|_| random.below(vocab) as u32 / 3).collect();
        let bias: Vec<(u32, f32)> = (0..20).map(|i| (i * 7, 10.0 * random.unit())).collect();
        let rows: Vec<_> = (0..16)
            .map(|i| SampleRow {
                temperature: [0.0, 1.0][i % 2],
                repetition_penalty: [1.0, 1.3][i / 2 % 2],
                presence_penalty: [0.0, 0.5][i / 4 % 2],
                frequency_penalty: [0.0, 0.2][i / 8 % 2],
                logit_bias: if i % 3 == 0 { &bias } else { &[] },
                prompt: &ids[..100],
                generated: &ids[50..],
                seed: random.bits(),
                ..greedy(i as u64)
            })
            .collect();
        check(&twin, vocab, &values, &rows);
    }
}

#[test]
fn what_is_no_number_is_never_chosen() {
    let twin = Twin::new(Element::F32);
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = [
        [nan, 1.0, nan, 0.0],
        [-inf, -inf, -inf, -inf],
        [nan, nan, nan, nan],
        [0.0, inf, 3.0, inf],
        [nan, -inf, -3.0, -2.0],
    ];
    let values = rows.concat();
    for temperature in [0.0, 1.0] {
        let rows: Vec<_> = (0..5)
            .map(|i| SampleRow {
                temperature,
                ..greedy(i)
            })
            .collect();
        check(&twin, 4, &values, &rows);
    }
}

#[test]
fn log_probabilities_are_the_cpus() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(4);
    for vocab in VOCABULARIES {
        let mut values = logits(&mut random, 3 * vocab);
        values[5] = f32::NAN;
        let (gpu, cpu) = twin.exact_buffers(&values);
        for (row, top) in [(0, 0), (1, 5), (2, 20)] {
            let got = twin.gpu.logprobs(&gpu, vocab, row, 3, top).expect("numbers");
            let expected = twin.cpu.logprobs(&cpu, vocab, row, 3, top).expect("numbers");
            let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * (1.0 + b.abs());
            assert!(near(got.chosen, expected.chosen), "{got:?} {expected:?}");
            assert_eq!(got.top.len(), expected.top.len());
            for (got, expected) in got.top.iter().zip(&expected.top) {
                assert_eq!(got.0, expected.0);
                assert!(near(got.1, expected.1), "{got:?} {expected:?}");
            }
        }
    }
}
