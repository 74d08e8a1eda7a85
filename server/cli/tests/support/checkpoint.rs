//! Checkpoints small enough for a test of the whole program.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The embedding model that the models crate is tested with.
pub(crate) fn tiny_bert() -> PathBuf {
    fixture("tiny-bert")
}

/// The decoder that the models crate is tested with, in `folder`, with a tokenizer of bytes and a chat template.
pub(crate) fn tiny_llama(folder: &Path) -> PathBuf {
    decoder(folder, "tiny-llama")
}

/// The same for any of its fixtures that decode.
pub(crate) fn decoder(folder: &Path, name: &str) -> PathBuf {
    let target = folder.join(name);
    fs::create_dir_all(&target).expect("a folder");
    for file in fs::read_dir(fixture(name)).expect("a fixture") {
        let file = file.expect("a file");
        // What it is compared with elsewhere is no part of it.
        if file.file_name() != "reference.safetensors" {
            fs::copy(file.path(), target.join(file.file_name())).expect("a copy");
        }
    }
    let tokenizer = ferrum_sim::byte_level_tokenizer().expect("a tokenizer");
    tokenizer
        .save(target.join("tokenizer.json"), false)
        .expect("is saved");
    let texts = serde_json::json!({ "chat_template": ferrum_sim::CHAT_TEMPLATE, "eos_token": "<|im_end|>" });
    fs::write(target.join("tokenizer_config.json"), texts.to_string()).expect("is written");
    target
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../engine/models/tests/fixtures")
        .join(name)
}
