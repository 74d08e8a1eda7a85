//! all-MiniLM-L6-v2 against the transformers library.

mod common;

use common::{embedder::TextEmbedder, max_difference, test_model};
use ferrum_engine::Task;
use ferrum_models::open;

/// Text, ids, the first elements at unit length.
const TEXTS: [(&str, [u32; 12], [f32; 8]); 3] = [
    (
        "The quick brown fox jumps over the lazy dog.",
        [
            101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102,
        ],
        [
            0.043934, 0.058934, 0.048178, 0.077548, 0.026744, -0.03763, -0.002605, -0.059943,
        ],
    ),
    (
        "A fast auburn fox leaps over a sleepy hound.",
        [
            101, 1037, 3435, 12704, 4419, 29195, 2058, 1037, 17056, 19598, 1012, 102,
        ],
        [
            0.028018, 0.032666, 0.032098, 0.108958, -0.017121, 0.030548, -0.003879, -0.087841,
        ],
    ),
    (
        "Interest rates rose by a quarter point on Tuesday.",
        [
            101, 3037, 6165, 3123, 2011, 1037, 4284, 2391, 2006, 9857, 1012, 102,
        ],
        [
            0.019961, -0.035365, -0.041376, -0.000393, 0.045027, -0.026008, -0.091558, 0.006714,
        ],
    ),
];

/// Cosines of the texts, as the reference has them, to five decimals.
const COSINES: [(usize, usize, f32); 3] = [(0, 1, 0.70127), (0, 2, 0.10608), (1, 2, 0.11305)];

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_equal_the_reference_to_five_decimals() {
    let mut embedder = TextEmbedder::load(&test_model("all-minilm-l6-v2"));
    let vectors: Vec<Vec<f32>> = TEXTS
        .iter()
        .map(|(_, ids, _)| embedder.embed(&[ids]).remove(0))
        .collect();
    for ((text, _, expected), vector) in TEXTS.iter().zip(&vectors) {
        let difference = max_difference(&vector[..8], expected);
        common::report(format_args!("{text}: largest difference {difference:e}"));
        assert!(difference <= 1e-5, "{text}: {difference:e}");
        assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
    }
    for (a, b, expected) in COSINES {
        assert!((dot(&vectors[a], &vectors[b]) - expected).abs() <= 1e-5);
    }
}

#[test]
fn a_batch_of_mixed_lengths_gives_the_bits_of_single_texts() {
    let mut embedder = TextEmbedder::load(&test_model("all-minilm-l6-v2"));
    let long: Vec<u32> = TEXTS
        .iter()
        .flat_map(|(_, ids, _)| *ids)
        .cycle()
        .take(200)
        .collect();
    let short = [101, 2748, 102];
    let texts: [&[u32]; 4] = [&short, &TEXTS[0].1, &long, &TEXTS[2].1];
    let together = embedder.embed(&texts);
    for (text, vector) in texts.into_iter().zip(together) {
        assert_eq!(
            embedder.embed(&[text])[0],
            vector,
            "a text of {} tokens",
            text.len()
        );
    }
}

#[test]
fn the_tokenizer_neither_cuts_nor_pads() {
    let checkpoint = open(&test_model("all-minilm-l6-v2")).expect("a checkpoint");
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    for (text, ids, _) in TEXTS {
        assert_eq!(tokenizer.encode(text, true).expect("ids").get_ids(), ids);
    }
    let long = "word ".repeat(300);
    assert_eq!(tokenizer.encode(long, true).expect("ids").get_ids().len(), 302);
}

#[test]
fn the_card_says_what_the_checkpoint_is() {
    let checkpoint = open(&test_model("all-minilm-l6-v2")).expect("a checkpoint");
    let facts = checkpoint.facts();
    assert_eq!(
        (facts.task, facts.architecture.as_str()),
        (Task::Embedding, "bert")
    );
    assert_eq!(
        (facts.weights.as_str(), facts.num_parameters),
        ("f32", 22_713_216)
    );
    assert_eq!((facts.embedding_dims, facts.vocab_size), (384, 30_522));
    // sentence_bert_config.json is stricter than the 512 positions of config.json.
    assert_eq!(facts.max_model_len, 256);
}
