//! Streamed pieces against the tokenizer's own decoding, with a real vocabulary.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use tokenizers::Tokenizer;

use super::{TextStream, Vocabulary};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/smollm2-tokenizer.json"
    );
    Arc::new(Tokenizer::from_file(path).expect("the fixture is a tokenizer"))
});
static VOCABULARY: LazyLock<Arc<Vocabulary>> =
    LazyLock::new(|| Arc::new(Vocabulary::new(&TOKENIZER, 49_152)));

/// The same vocabulary, decoded through the tokenizer as for decoders without a table.
static WINDOWS: LazyLock<Arc<Vocabulary>> = LazyLock::new(|| {
    let special = (0..17).collect();
    Arc::new(Vocabulary::Windows {
        tokenizer: Arc::clone(&TOKENIZER),
        special,
    })
});

/// The pieces of `ids`, up to a stop string.
fn stream(vocabulary: &Arc<Vocabulary>, ids: &[u32], stops: &[String]) -> (Vec<String>, bool) {
    let mut text = TextStream::new(Arc::clone(vocabulary), stops.into());
    let mut pieces = Vec::new();
    for &id in ids {
        let piece = text.push(id);
        pieces.push(piece.text);
        if piece.stopped {
            return (pieces, true);
        }
    }
    let piece = text.finish();
    pieces.push(piece.text);
    (pieces, piece.stopped)
}

/// Where the first complete stop string cuts `text`: the definition, one character at a time.
fn cut<'a>(text: &'a str, stops: &[String]) -> (&'a str, bool) {
    for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let longest = stops
            .iter()
            .filter(|stop| text[..end].ends_with(stop.as_str()))
            .map(String::len)
            .max();
        if let Some(length) = longest {
            return (&text[..end - length], true);
        }
    }
    (text, false)
}

/// Ids of the vocabulary; half of them are single bytes (17 special tokens, then 256 bytes), so that characters are
/// split over tokens and many bytes are no UTF-8.
fn ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![0..49_160u32, 17..273u32], 0..60)
}

/// Text as models write it: in several scripts, with emoji made of several characters.
fn multilingual() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            "[a-z ]{1,8}",
            "[а-я]{1,6}",
            "[\u{4e00}-\u{4fff}]{1,4}",
            Just("👩‍👩‍👧 ".to_owned()),
            Just("\n\n".to_owned())
        ],
        1..12,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn pieces_put_together_are_the_full_decoding(ids in ids()) {
        let full = TOKENIZER.decode(&ids, true).expect("decodes");
        prop_assert_eq!(stream(&VOCABULARY, &ids, &[]).0.concat(), full);
    }

    #[test]
    fn no_piece_of_a_text_has_a_replacement_character(text in multilingual()) {
        let encoding = TOKENIZER.encode(text.as_str(), false).expect("encodes");
        for vocabulary in [&VOCABULARY, &WINDOWS] {
            let (pieces, _) = stream(vocabulary, encoding.get_ids(), &[]);
            prop_assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{:?}", pieces);
            prop_assert_eq!(pieces.concat(), &*text);
        }
    }

    #[test]
    fn a_stop_string_cuts_where_it_is_complete_first(
        ids in ids(),
        // Taken from the text itself, so that they are found.
        places in prop::collection::vec((any::<prop::sample::Index>(), 1..12usize), 1..4),
    ) {
        let full = TOKENIZER.decode(&ids, true).expect("decodes");
        let characters: Vec<char> = full.chars().collect();
        prop_assume!(!characters.is_empty());
        let stops: Vec<String> = places
            .iter()
            .map(|(start, length)| characters[start.index(characters.len())..].iter().take(*length).collect())
            .collect();
        let (pieces, stopped) = stream(&VOCABULARY, &ids, &stops);
        let (expected, cut) = cut(&full, &stops);
        prop_assert_eq!((pieces.concat(), stopped), (expected.to_owned(), cut));
    }
}

#[test]
fn the_cost_of_a_token_does_not_grow_with_the_text() {
    // What is kept between tokens is bounded, whatever came before: bytes that never become a character.
    let mut text = TextStream::new(Arc::clone(&VOCABULARY), Arc::new([]));
    let continuation = TOKENIZER
        .token_to_id("ł")
        .expect("the byte 0x82 is a token of its own");
    let told: usize = (0..10_000)
        .map(|_| text.push(continuation).text.chars().count())
        .sum();
    assert_eq!(told, 10_000);
}
