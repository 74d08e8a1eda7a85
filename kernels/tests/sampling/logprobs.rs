//! Log probabilities against f64 arithmetic.

use ferrum_kernels::{
    cpu::CpuBackend,
    ops::{SamplingOps, TokenLogprobs},
};

use crate::{
    fixture::{backends, buffer, logits},
    support::Random,
};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Compares with `logit - ln(sum of e^logit)`.
///
/// A weight has the exponential's error, 4 u, and that of its argument, `u |logit - max|`; sums over 16 terms a
/// lane and 4 halvings add 20 u; the mean of these errors, weighted with the probabilities, is that of the
/// logarithm. The result rounds once.
fn check(backend: &CpuBackend, row: &[f32], token: u32, top: usize) {
    let doubled = [row, row].concat();
    let TokenLogprobs {
        chosen,
        top: likeliest,
    } = backend
        .logprobs(&buffer(backend, &doubled), row.len(), 1, token, top)
        .expect("a token of the vocabulary");
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let distance = |x: f32| f64::from(x) - f64::from(max);
    let sum: f64 = row.iter().map(|&x| distance(x).exp()).sum();
    let spread: f64 = row
        .iter()
        .filter(|x| x.is_finite())
        .map(|&x| distance(x).exp() / sum * distance(x).abs())
        .sum();
    let close = |logprob: f32, x: f32| {
        let exact = distance(x) - sum.ln();
        (f64::from(logprob) - exact).abs() <= (24.0 + spread) * U + U * exact.abs()
    };
    assert!(close(chosen, row[token as usize]), "{chosen}");
    let mut ranked: Vec<u32> = (0..row.len() as u32).collect();
    ranked.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
    ranked.truncate(top);
    let ids: Vec<u32> = likeliest.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ranked);
    assert!(
        likeliest
            .iter()
            .all(|&(id, logprob)| close(logprob, row[id as usize]))
    );
}

#[test]
fn log_probabilities_match_f64_arithmetic() {
    for backend in backends(1) {
        for vocab in [1, 17, 1000, 49_152, 151_936] {
            let mut random = Random(vocab as u64);
            let mut row = logits(&mut random, vocab);
            for top in [0, 1, 5, 20, vocab] {
                check(&backend, &row, random.below(vocab) as u32, top);
            }
            // Alike, far from zero, far apart.
            row.fill(3.0);
            check(&backend, &row, 0, 5);
            row.iter_mut().for_each(|x| *x = -5e4 + random.unit());
            check(&backend, &row, 0, 5);
            row[vocab / 2] = 60.0;
            check(&backend, &row, 0, 5);
            check(&backend, &row, vocab as u32 / 2, 1);
        }
    }
}

#[test]
fn tokens_that_cannot_be_chosen_have_minus_infinity() {
    for backend in backends(1) {
        let row = buffer(&backend, &[f32::NAN, 1.0, f32::NEG_INFINITY, 1.0]);
        for (token, expected) in [
            (0, f32::NEG_INFINITY),
            (1, -std::f32::consts::LN_2),
            (2, f32::NEG_INFINITY),
        ] {
            let found = backend
                .logprobs(&row, 4, 0, token, 4)
                .expect("a token of the vocabulary");
            assert_eq!(found.chosen, expected);
            assert_eq!(found.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 3]);
        }
        let nothing = buffer(&backend, &[f32::NAN; 8]);
        let found = backend
            .logprobs(&nothing, 8, 0, 3, 2)
            .expect("a token of the vocabulary");
        assert_eq!((found.chosen, found.top.len()), (f32::NEG_INFINITY, 0));
        assert!(backend.logprobs(&row, 4, 0, 4, 0).is_err());
        assert!(backend.logprobs(&row, 4, 1, 0, 0).is_err());
    }
}
