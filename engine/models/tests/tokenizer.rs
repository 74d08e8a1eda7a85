//! Tokenizers built from GGUF metadata against those of tokenizer.json.

mod common;

use std::path::Path;

use common::{
    fixture,
    gguf::{self, Meta, Tensor},
    test_model,
};
use ferrum_models::open;
use serde::Deserialize;
use tokenizers::Tokenizer;

#[derive(Deserialize)]
struct Expected {
    text: String,
    ids: Vec<u32>,
}

/// Ids of SmolLM2's tokenizer.json by the `tokenizers` library of Python; its rules were compared with llama.cpp's.
fn check(model: &str) {
    let text = std::fs::read(fixture("smollm2-token-ids.json")).expect("the fixture");
    let expected: Vec<Expected> = serde_json::from_slice(&text).expect("JSON");
    assert!(expected.len() > 250);
    let tokenizer = open(&test_model(model))
        .expect("a checkpoint")
        .tokenizer()
        .expect("a tokenizer");
    for Expected { text, ids } in expected {
        let encoding = tokenizer.encode(text.as_str(), true).expect("ids");
        assert_eq!(encoding.get_ids(), ids, "{model}: {text:?}");
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), text, "{model}");
    }
}

#[test]
fn ids_from_gguf_metadata_equal_the_expected_ones() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn ids_from_tokenizer_json_equal_the_expected_ones() {
    check("smollm2-135m-instruct");
}

/// Byte-level letters, a few merges and a special token.
struct Vocabulary<'a> {
    pre: &'a str,
    tokens: &'a [&'a str],
    merges: &'a [&'a str],
    types: &'a [i32],
    add_bos: bool,
}

impl Vocabulary<'_> {
    fn build(&self) -> Result<Tokenizer, String> {
        let metadata = [
            ("general.architecture", Meta::Text("llama")),
            ("llama.block_count", Meta::U32(1)),
            ("llama.context_length", Meta::U32(32)),
            ("llama.embedding_length", Meta::U32(4)),
            ("llama.feed_forward_length", Meta::U32(4)),
            ("llama.attention.head_count", Meta::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
            ("tokenizer.ggml.model", Meta::Text("gpt2")),
            ("tokenizer.ggml.pre", Meta::Text(self.pre)),
            ("tokenizer.ggml.tokens", Meta::Texts(self.tokens)),
            ("tokenizer.ggml.token_type", Meta::I32s(self.types)),
            ("tokenizer.ggml.merges", Meta::Texts(self.merges)),
            ("tokenizer.ggml.add_bos_token", Meta::Bool(self.add_bos)),
            ("tokenizer.ggml.bos_token_id", Meta::U32(0)),
        ];
        let table = Tensor {
            name: "token_embd.weight".to_owned(),
            shape: vec![self.tokens.len(), 4],
            kind: gguf::F32,
            bytes: vec![0; self.tokens.len() * 16],
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path: &Path = &folder.path().join("model.gguf");
        std::fs::write(path, gguf::write(&metadata, &[table])).expect("written");
        open(path)
            .map_err(|error| error.to_string())?
            .tokenizer()
            .map_err(|error| error.to_string())
    }

    fn cut(&self, text: &str) -> Vec<String> {
        let tokenizer = self.build().expect("a tokenizer");
        tokenizer.encode(text, true).expect("ids").get_tokens().to_vec()
    }
}

const TOKENS: [&str; 13] = [
    "<s>", "1", "2", "3", "a", "'", "S", "Ġ", "12", "123", "'S", "Ġa", "12a",
];
const TYPES: [i32; 13] = [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
const MERGES: [&str; 5] = ["1 2", "12 3", "' S", "Ġ a", "12 a"];

fn vocabulary(pre: &str) -> Vocabulary<'_> {
    Vocabulary {
        pre,
        tokens: &TOKENS,
        merges: &MERGES,
        types: &TYPES,
        add_bos: false,
    }
}

#[test]
fn numbers_are_cut_as_the_pre_tokenizer_says() {
    assert_eq!(vocabulary("gpt-2").cut("12312"), ["123", "12"]);
    assert_eq!(vocabulary("llama-bpe").cut("12312"), ["123", "12"]);
    assert_eq!(vocabulary("qwen2").cut("123"), ["1", "2", "3"]);
    assert_eq!(vocabulary("smollm").cut("123"), ["1", "2", "3"]);
}

#[test]
fn contractions_and_spaces_are_cut_as_the_pre_tokenizer_says() {
    // Without regard to case for Llama 3 and Qwen 2, small letters only for GPT-2.
    assert_eq!(vocabulary("llama-bpe").cut("a'S a"), ["a", "'S", "Ġa"]);
    assert_eq!(vocabulary("qwen2").cut("a'S a"), ["a", "'S", "Ġa"]);
    assert_eq!(vocabulary("gpt-2").cut("a'S a"), ["a", "'", "S", "Ġa"]);
    assert_eq!(vocabulary("smollm").cut("a'S a"), ["a", "'", "S", "Ġa"]);
}

#[test]
fn special_tokens_in_a_text_are_themselves_and_one_is_put_before_it_where_asked() {
    assert_eq!(vocabulary("smollm").cut("a<s>a"), ["a", "<s>", "a"]);
    let with_bos = Vocabulary {
        add_bos: true,
        ..vocabulary("llama-bpe")
    };
    assert_eq!(with_bos.cut("a"), ["<s>", "a"]);
    let tokenizer = with_bos.build().expect("a tokenizer");
    assert_eq!(tokenizer.encode("a", false).expect("ids").get_tokens(), ["a"]);
}

#[test]
fn an_unknown_pre_tokenizer_is_refused_with_the_known_ones() {
    let error = vocabulary("tekken").build().expect_err("a refusal");
    assert!(
        error.contains("tokenizer.ggml.pre is tekken; expected one of gpt-2, llama-bpe"),
        "{error}"
    );
}

#[test]
fn merges_and_types_that_do_not_fit_the_vocabulary_are_refused() {
    let merges = Vocabulary {
        merges: &["1 9"],
        ..vocabulary("smollm")
    };
    assert!(
        merges
            .build()
            .expect_err("a refusal")
            .contains("tokenizer.ggml.merges")
    );
    let types = Vocabulary {
        types: &[3, 1],
        ..vocabulary("smollm")
    };
    assert!(
        types
            .build()
            .expect_err("a refusal")
            .contains("token_type: expected an integer for each token")
    );
}
