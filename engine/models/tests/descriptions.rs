//! What is read beside the architecture: shards, pooling, stop ids, sampling defaults, both spellings of a field.

mod common;

use common::{fixture, folder::Folder};
use ferrum_models::{LoadOptions, open};
use serde_json::{Value, json};

#[test]
fn the_older_spelling_of_rotary_parameters_gives_the_same_numbers() {
    let folder = Folder::of("tiny-llama3-rope").configure(json!({"rope_parameters": null}));
    let options = LoadOptions::default();
    let prompt = common::Reference::read("tiny-llama3-rope").ids("input_ids");
    let old = common::decoder::Decoder::load(folder.path(), &options).prefill(&prompt);
    let new = common::decoder::Decoder::load(&fixture("tiny-llama3-rope"), &options).prefill(&prompt);
    assert_eq!(old, new);
}

#[test]
fn an_index_of_shards_is_followed_but_not_out_of_its_folder() {
    let names = ["model.norm.weight", "lm_head.weight"];
    let bytes = std::fs::read(fixture("tiny-llama").join("model.safetensors")).expect("a fixture");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let (second, first): (Vec<_>, Vec<_>) = file
        .tensors()
        .into_iter()
        .partition(|(name, _)| names.contains(&name.as_str()));
    let shard_of = |name: &str| {
        if names.contains(&name) {
            "b.safetensors"
        } else {
            "a.safetensors"
        }
    };
    let map: Value = file
        .names()
        .iter()
        .map(|name| (name.to_string(), json!(shard_of(name))))
        .collect();
    let folder = Folder::of("tiny-llama").write(
        "model.safetensors.index.json",
        &json!({"weight_map": map}).to_string(),
    );
    std::fs::remove_file(folder.file("model.safetensors")).expect("removed");
    for (name, tensors) in [("a.safetensors", first), ("b.safetensors", second)] {
        let data = safetensors::serialize(tensors, None).expect("serialized");
        std::fs::write(folder.file(name), data).expect("written");
    }
    folder.load().expect("shards load");
    let outside = json!({"weight_map": {"t": "../a.safetensors"}}).to_string();
    let text = folder.write("model.safetensors.index.json", &outside).refusal();
    assert!(
        text.contains("shard \"../a.safetensors\" is not a plain file name"),
        "{text}"
    );
}

#[test]
fn pooling_is_read_from_sentence_transformers_files() {
    let modules = r#"[{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]"#;
    let pooled = |pooling: &str| {
        let folder = Folder::of("tiny-bert").write("modules.json", modules);
        folder.write("1_Pooling/config.json", pooling)
    };
    pooled(r#"{"pooling_mode_cls_token": true}"#)
        .load()
        .expect("CLS pooling loads");
    let text = pooled(r#"{"pooling_mode_max_tokens": true}"#).refusal();
    assert!(
        text.contains("pooling_mode_max_tokens is true; expected exactly one of pooling_mode_mean_tokens"),
        "{text}"
    );
    let text = pooled(r#"{"pooling_mode_mean_tokens": false}"#).refusal();
    assert!(
        text.contains("1_Pooling/config.json: pooling_mode_mean_tokens is false"),
        "{text}"
    );
    let dense = modules.replace("models.Pooling", "models.Dense");
    let text = Folder::of("tiny-bert").write("modules.json", &dense).refusal();
    assert!(
        text.contains("modules.json: type is sentence_transformers.models.Dense; expected Transformer"),
        "{text}"
    );
}

#[test]
fn stop_ids_and_sampling_defaults_come_from_the_generation_config() {
    let folder = Folder::of("tiny-llama").write(
        "generation_config.json",
        r#"{"eos_token_id": [2, 7], "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95}"#,
    );
    let checkpoint = open(folder.path()).expect("a checkpoint");
    assert_eq!(checkpoint.facts().stop_token_ids, [2, 7]);
    let sampling = checkpoint.facts().default_sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_k, sampling.top_p),
        (Some(0.6), Some(20), Some(0.95))
    );
    assert_eq!(sampling.repetition_penalty, None);
    let folder = folder.write("generation_config.json", r#"{"top_p": 1.5}"#);
    let text = open(folder.path()).err().expect("a refusal").to_string();
    assert!(
        text.contains("generation_config.json: top_p is 1.5; expected above 0, at most 1"),
        "{text}"
    );
}

#[test]
fn progress_counts_every_tensor() {
    let seen = std::cell::RefCell::new(Vec::new());
    let progress = |done, total| seen.borrow_mut().push((done, total));
    let options = LoadOptions {
        progress: Some(&progress),
        ..LoadOptions::default()
    };
    open(&fixture("tiny-llama"))
        .expect("a checkpoint")
        .load(&common::backend(), &options)
        .expect("loads");
    let seen = seen.into_inner();
    assert!(seen.is_sorted());
    assert_eq!(seen.last(), Some(&(30, 30)));
}
