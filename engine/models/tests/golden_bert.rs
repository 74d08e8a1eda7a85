//! The encoder against the transformers library, on a small random checkpoint.

mod common;

use common::{Reference, embedder::TextEmbedder, f32_tolerance, fixture, max_difference};

const SEQUENCES: usize = 3;
const PADDED_LEN: usize = 10;
const DIMS: usize = 32;

/// The texts without their padding, and the mean of each text's hidden states at unit length.
fn texts_and_vectors() -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let reference = Reference::read("tiny-bert");
    let (ids, mask) = (reference.ids("input_ids"), reference.ids("attention_mask"));
    let hidden = reference.floats("last_hidden");
    let (mut texts, mut vectors) = (Vec::new(), Vec::new());
    for text in 0..SEQUENCES {
        let len = mask[text * PADDED_LEN..(text + 1) * PADDED_LEN]
            .iter()
            .sum::<u32>() as usize;
        let start = text * PADDED_LEN;
        texts.push(ids[start..start + len].to_vec());
        let rows = &hidden[start * DIMS..(start + len) * DIMS];
        let sums: Vec<f64> = (0..DIMS)
            .map(|d| rows.iter().skip(d).step_by(DIMS).map(|&x| f64::from(x)).sum())
            .collect();
        let norm = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
        vectors.push(sums.iter().map(|x| (x / norm) as f32).collect());
    }
    (texts, vectors)
}

#[test]
fn vectors_equal_the_reference_and_a_batch_equals_single_texts() {
    let (texts, expected) = texts_and_vectors();
    let mut embedder = TextEmbedder::load(&fixture("tiny-bert"));
    assert_eq!(
        (embedder.model.dims(), embedder.model.max_model_len()),
        (DIMS, 128)
    );
    let together = embedder.embed(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for (i, text) in texts.iter().enumerate() {
        let alone = &embedder.embed(&[text])[0];
        assert_eq!(*alone, together[i], "text {i} alone and in a batch");
        let difference = max_difference(alone, &expected[i]);
        let tolerance = f32_tolerance(2, 64, 1.0);
        common::report(format_args!(
            "text {i}: largest difference {difference:e}, tolerance {tolerance:e}"
        ));
        assert!(
            difference <= tolerance,
            "text {i} differs by {difference:e}, more than {tolerance:e}"
        );
    }
}
