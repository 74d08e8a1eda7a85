use ferrum_kernels::{
    Backend,
    cuda::{CudaStep, Element},
    ops::{KNOWN, SampleRow, SamplingOps},
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
        allowed: None,
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
fn masks_of_grammars_are_those_of_the_cpu() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(11);
    for vocab in VOCABULARIES {
        let values = logits(&mut random, vocab * 12);
        // Everything, half of it, few ids, one, none.
        let masks: Vec<Vec<u32>> = (0..12)
            .map(|row| {
                let words = 0..vocab.div_ceil(32);
                let word = |random: &mut Random| match row % 5 {
                    0 => u32::MAX,
                    1 => random.bits() as u32,
                    2 if random.below(40) == 0 => 1 << random.below(32),
                    _ => 0,
                };
                let mut words: Vec<u32> = words.map(|_| word(&mut random)).collect();
                if row % 5 == 3 {
                    words[vocab / 64] |= 1 << 7;
                }
                words
            })
            .collect();
        let rows: Vec<_> = (0..12)
            .map(|i| SampleRow {
                temperature: [0.0, 1.0, 0.7][i % 3],
                top_k: [0, 50, 3][i / 3 % 3],
                top_p: [1.0, 0.9][i % 2],
                logit_bias: &[(5, 30.0), (70, -3.0)],
                allowed: (i != 10).then_some(&masks[i][..]),
                seed: random.bits(),
                ..greedy(i as u64)
            })
            .collect();
        check(&twin, vocab, &values, &rows);
    }
}

#[test]
fn what_was_drawn_is_fed_to_the_rows_that_ask_for_it() {
    let twin = Twin::new(Element::Bf16);
    let mut random = Random(5);
    for rows in [1, 3, 64, 1000] {
        let drawn: Vec<u32> = (0..rows).map(|_| random.bits() as u32).collect();
        let source = |i: usize| if i % 3 == 1 { KNOWN } else { (rows - 1 - i) as u32 };
        let sources: Vec<u32> = (0..rows).map(source).collect();
        let (gpu_drawn, cpu_drawn) = twin.indices(&drawn);
        let (gpu_sources, cpu_sources) = twin.indices(&sources);
        let (mut ids, mut expected) = twin.indices(&vec![7; rows + 1]);
        twin.gpu
            .feed(&gpu_drawn, &gpu_sources, rows, &mut ids)
            .expect("ids");
        twin.cpu
            .feed(&cpu_drawn, &cpu_sources, rows, &mut expected)
            .expect("ids");
        let mut got = vec![0; rows + 1];
        twin.gpu.read_indices_into(&ids, &mut got).expect("ids");
        assert_eq!(got, expected[..]);
    }
}

#[test]
fn steps_bring_what_they_have_drawn_though_others_follow_them() {
    let twin = Twin::new(Element::Bf16);
    let gpu = &twin.gpu;
    let mut drawn = gpu.alloc_indices(600).expect("memory");
    let mut steps: Vec<CudaStep> = (0..3).map(|_| CudaStep::default()).collect();
    let count = |round: u32, i: u32| [5, 0, 600][(i + round) as usize % 3];
    for round in 0..3 {
        for (i, step) in (0..).zip(&mut steps) {
            gpu.begin_step(step).expect("begun");
            gpu.write_indices(&[100 * round + i; 600], &mut drawn)
                .expect("room");
            gpu.end_step(step, &drawn, count(round, i)).expect("ended");
        }
        let mut tokens = vec![1];
        for (i, step) in (0..).zip(&mut steps) {
            let took = gpu.finish_step(step, &mut tokens).expect("finished");
            assert_eq!(tokens, vec![100 * round + i; count(round, i)]);
            assert!(took.as_secs_f64() < 1.0);
        }
    }
    assert!(
        gpu.end_step(&mut CudaStep::default(), &drawn, 1).is_err(),
        "not begun"
    );
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
                allowed: None,
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
