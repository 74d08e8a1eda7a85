//! Truncated, damaged and hostile files end in an error that names what is wrong; never in a panic, and never in memory
//! reserved on the word of a count.

mod common;

use std::{path::Path, sync::LazyLock};

use common::{
    fixture,
    gguf::{self, Meta, Tensor},
};
use ferrum_kernels::cpu::CpuBackend;
use ferrum_models::{LoadError, LoadOptions, open};

static BACKEND: LazyLock<CpuBackend> = LazyLock::new(|| CpuBackend::new(1));

/// One layer of four columns, small enough to damage at every byte.
fn small_gguf() -> Vec<u8> {
    let metadata = [
        ("general.architecture", Meta::Text("llama")),
        ("llama.block_count", Meta::U32(1)),
        ("llama.context_length", Meta::U32(32)),
        ("llama.embedding_length", Meta::U32(4)),
        ("llama.feed_forward_length", Meta::U32(4)),
        ("llama.attention.head_count", Meta::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("smollm")),
        ("tokenizer.ggml.tokens", Meta::Texts(&["a", "b", "ab", "<s>"])),
        ("tokenizer.ggml.token_type", Meta::I32s(&[1, 1, 1, 3])),
        ("tokenizer.ggml.merges", Meta::Texts(&["a b"])),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(true)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(3)),
    ];
    let matrices = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    let names = matrices.map(|name| (format!("blk.0.{name}.weight"), vec![4, 4]));
    let norms = [
        "blk.0.attn_norm.weight",
        "blk.0.ffn_norm.weight",
        "output_norm.weight",
    ];
    let norms = norms.map(|name| (name.to_owned(), vec![4]));
    let table = [("token_embd.weight".to_owned(), vec![4, 4])];
    let tensors: Vec<Tensor> = table
        .into_iter()
        .chain(names)
        .chain(norms)
        .map(|(name, shape): (String, Vec<usize>)| Tensor {
            bytes: vec![0; shape.iter().product::<usize>() * 4],
            name,
            shape,
            kind: gguf::F32,
        })
        .collect();
    gguf::write(&metadata, &tensors)
}

/// Does all that can be done with a file: opens it, loads it, builds its tokenizer.
fn try_all(path: &Path) -> Result<(), LoadError> {
    let checkpoint = open(path)?;
    let options = LoadOptions {
        max_model_len: Some(16),
        max_num_batched_tokens: 16,
        max_num_seqs: 1,
        ..LoadOptions::default()
    };
    checkpoint.load(&*BACKEND, &options)?;
    match checkpoint.tokenizer() {
        Err(LoadError::MissingTokenizer { .. }) => Ok(()),
        result => result.map(|_| ()),
    }
}

fn try_bytes(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("written");
    try_all(if name.ends_with("gguf") { &path } else { folder })
}

#[test]
fn the_undamaged_small_file_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    try_bytes(folder.path(), "model.gguf", &small_gguf()).expect("loads");
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = small_gguf();
    for len in 0..file.len() {
        let error = try_bytes(folder.path(), "model.gguf", &file[..len]).expect_err("a file that was cut");
        let text = error.to_string();
        assert!(matches!(error, LoadError::Corrupt { .. }), "cut at {len}: {text}");
        assert!(text.contains("model.gguf"), "cut at {len}: {text}");
    }
}

#[test]
fn a_gguf_file_cut_within_its_data_names_the_tensor() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = small_gguf();
    let error =
        try_bytes(folder.path(), "model.gguf", &file[..file.len() - 1]).expect_err("a file that was cut");
    let text = error.to_string();
    assert!(
        text.contains("tensor output_norm.weight") && text.contains("truncated"),
        "{text}"
    );
}

#[test]
fn a_gguf_file_with_any_damaged_byte_does_not_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = small_gguf();
    for position in 0..file.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = file.clone();
            if damaged[position] == damage {
                continue;
            }
            damaged[position] = damage;
            let _ = try_bytes(folder.path(), "model.gguf", &damaged);
        }
    }
}

#[test]
fn a_gguf_file_with_a_damaged_word_does_not_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = small_gguf();
    for position in (0..file.len() - 8).step_by(3) {
        for damage in [u64::MAX, i64::MAX as u64, u64::MAX - 7, 1 << 40, 1 << 32] {
            let mut damaged = file.clone();
            damaged[position..position + 8].copy_from_slice(&damage.to_le_bytes());
            let _ = try_bytes(folder.path(), "model.gguf", &damaged);
        }
    }
}

fn copy_fixture(name: &str, folder: &Path) {
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
    }
}

#[test]
fn a_safetensors_file_cut_anywhere_is_refused_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    copy_fixture("tiny-qwen2", folder.path());
    let file = std::fs::read(folder.path().join("model.safetensors")).expect("a file");
    let header_len = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let in_header = (0..header_len + 8).step_by(7);
    let in_data = (header_len + 8..file.len()).step_by(8111).chain([file.len() - 1]);
    for len in in_header.chain(in_data) {
        let error =
            try_bytes(folder.path(), "model.safetensors", &file[..len]).expect_err("a file that was cut");
        let text = error.to_string();
        assert!(matches!(error, LoadError::Corrupt { .. }), "cut at {len}: {text}");
        assert_eq!(
            text.contains("tensor model."),
            len >= header_len + 8,
            "cut at {len}: {text}"
        );
    }
}

#[test]
fn a_safetensors_header_with_any_damaged_byte_does_not_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    copy_fixture("tiny-qwen2", folder.path());
    let file = std::fs::read(folder.path().join("model.safetensors")).expect("a file");
    let header_len = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    for position in (0..8).chain((8..header_len + 8).step_by(11)) {
        for damage in [b'9', b'"', b'-', 0xff] {
            let mut damaged = file.clone();
            damaged[position] = damage;
            let _ = try_bytes(folder.path(), "model.safetensors", &damaged);
        }
    }
}

#[test]
fn a_safetensors_header_that_lies_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    copy_fixture("tiny-qwen2", folder.path());
    let cases = [
        (
            r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,9999999]}}"#,
            "tensor t: its data is at 0..9999999",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            "tensor t: F32 of shape [3] does not take 8",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            "tensor t: its data is at 8..0",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#,
            "tensor t: F32 of shape",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
            "tensor t:",
        ),
        (
            r#"{"t":{"shape":[2],"data_offsets":[0,8]}}"#,
            "tensor t: missing field `dtype`",
        ),
        (r#"[1]"#, "header:"),
    ];
    for (header, expected) in cases {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0; 8]);
        let error = try_bytes(folder.path(), "model.safetensors", &file).expect_err("a lie");
        assert!(error.to_string().contains(expected), "{header}: {error}");
    }
    let huge = u64::MAX.to_le_bytes();
    let error = try_bytes(folder.path(), "model.safetensors", &huge).expect_err("a lie");
    assert!(
        error
            .to_string()
            .contains("header: it claims 18446744073709551615 bytes"),
        "{error}"
    );
}
