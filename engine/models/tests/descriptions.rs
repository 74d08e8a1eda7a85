//! What is read beside the architecture: storage formats, shards, pooling, stop ids, sampling defaults, chat templates.

mod common;

use common::{
    decoder::Decoder,
    fixture,
    folder::Folder,
    gguf::{self, Meta, Tensor},
};
use ferrum_engine::Dtype;
use ferrum_models::{LoadOptions, open};
use half::{bf16, f16};
use safetensors::{Dtype as Stored, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

#[test]
fn the_older_spelling_of_rotary_parameters_gives_the_same_numbers() {
    let folder = Folder::of("tiny-llama3-rope").configure(json!({"rope_parameters": null}));
    let options = LoadOptions::default();
    let prompt = common::Reference::read("tiny-llama3-rope").ids("input_ids");
    let old = Decoder::load(folder.path(), &options).prefill(&prompt);
    let new = Decoder::load(&fixture("tiny-llama3-rope"), &options).prefill(&prompt);
    assert_eq!(old, new);
}

#[test]
fn an_index_of_shards_is_followed_but_not_out_of_its_folder() {
    let names = ["model.norm.weight", "lm_head.weight"];
    let bytes = std::fs::read(fixture("tiny-llama").join("model.safetensors")).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
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

/// Type number, name, elements and bytes of a block, from ggml's own table.
const GGML_TYPES: [(u32, &str, usize, usize); 11] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (30, "BF16", 1, 2),
];

#[test]
fn every_ggml_type_is_read_under_its_own_name() {
    for (kind, name, block_len, block_bytes) in GGML_TYPES {
        let metadata = [
            ("general.architecture", Meta::Text("llama")),
            ("llama.block_count", Meta::U32(1)),
            ("llama.context_length", Meta::U32(32)),
            ("llama.embedding_length", Meta::U32(256)),
            ("llama.feed_forward_length", Meta::U32(256)),
            ("llama.attention.head_count", Meta::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ];
        let table = |bytes: usize| Tensor {
            name: "token_embd.weight".to_owned(),
            shape: vec![3, 256],
            kind,
            bytes: vec![0; bytes],
        };
        let bytes = 3 * 256 / block_len * block_bytes;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, gguf::write(&metadata, &[table(bytes)])).expect("written");
        let facts = open(&path).expect("a checkpoint").facts().clone();
        assert_eq!(
            (facts.weights, facts.num_parameters, facts.vocab_size),
            (format!("gguf {name}"), 768, 3)
        );
        std::fs::write(&path, gguf::write(&metadata, &[table(bytes - 1)])).expect("written");
        open(&path)
            .err()
            .unwrap_or_else(|| panic!("{name}: one byte is missing"));
    }
}

/// tiny-llama with its matrices in half precision, its norms as they are.
fn in_half_precision(stored: Stored, convert: fn(f32) -> [u8; 2]) -> Folder {
    let bytes = std::fs::read(fixture("tiny-llama").join("model.safetensors")).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let halves = |data: &[u8]| -> Vec<u8> {
        data.as_chunks()
            .0
            .iter()
            .flat_map(|&word| convert(f32::from_le_bytes(word)))
            .collect()
    };
    let tensors: Vec<(String, Stored, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| match view.shape() {
            [_, _] => (name, stored, view.shape().to_vec(), halves(view.data())),
            shape => (name, Stored::F32, shape.to_vec(), view.data().to_vec()),
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), data).expect("a tensor"),
        )
    });
    let folder = Folder::of("tiny-llama");
    let file = safetensors::serialize(views, None).expect("serialized");
    std::fs::write(folder.file("model.safetensors"), file).expect("written");
    folder
}

#[test]
fn half_precision_in_the_file_equals_conversion_at_load() {
    let prompt = common::Reference::read("tiny-llama").ids("input_ids");
    let f16 = in_half_precision(Stored::F16, |x| f16::from_f32(x).to_le_bytes());
    let bf16 = in_half_precision(Stored::BF16, |x| bf16::from_f32(x).to_le_bytes());
    for (folder, dtype, name) in [(f16, Dtype::F16, "f16"), (bf16, Dtype::Bf16, "bf16")] {
        assert_eq!(open(folder.path()).expect("a checkpoint").facts().weights, name);
        let converted = LoadOptions {
            dtype,
            ..LoadOptions::default()
        };
        let stored = Decoder::load(folder.path(), &LoadOptions::default()).prefill(&prompt);
        let converted = Decoder::load(&fixture("tiny-llama"), &converted).prefill(&prompt);
        assert_eq!(stored, converted, "{name}");
    }
}

#[test]
fn chat_texts_are_read_in_every_form_they_are_written() {
    let facts = |folder: &Folder| open(folder.path()).expect("a checkpoint").facts().clone();
    let folder = Folder::of("tiny-llama");
    assert_eq!(
        (facts(&folder).chat_template, facts(&folder).bos_token),
        (None, None)
    );
    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "</s>",
        "chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}],
    });
    let folder = folder.write("tokenizer_config.json", &config.to_string());
    let found = facts(&folder);
    assert_eq!(found.chat_template.as_deref(), Some("yes"));
    assert_eq!(
        (found.bos_token.as_deref(), found.eos_token.as_deref()),
        (Some("<s>"), Some("</s>"))
    );
    let folder = folder.write("chat_template.jinja", "from its own file");
    assert_eq!(facts(&folder).chat_template.as_deref(), Some("from its own file"));
    let folder = folder.write("tokenizer_config.json", r#"{"chat_template": 7}"#);
    let text = open(folder.path()).err().expect("a refusal").to_string();
    assert!(
        text.contains("chat_template is neither text nor list; expected a text"),
        "{text}"
    );
}
