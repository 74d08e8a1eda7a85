//! What cannot be loaded is refused with the file, the field, its value and what is allowed.

mod common;

use common::{
    fixture,
    folder::Folder,
    gguf::{self, Meta, Tensor},
};
use ferrum_engine::{Dtype, Quantization};
use ferrum_models::{LoadError, LoadOptions, open};
use serde_json::{Value, json};

fn refusal_of(fixture: &str, fields: Value) -> String {
    Folder::of(fixture).configure(fields).refusal()
}

#[test]
fn a_field_out_of_range_is_named_with_its_value_and_the_range() {
    let cases = [
        (
            json!({"num_hidden_layers": 0}),
            "num_hidden_layers is 0; expected an integer from 1 to 1024",
        ),
        (
            json!({"hidden_size": -64}),
            "hidden_size is -64; expected an integer from 1 to 131072",
        ),
        (
            json!({"hidden_size": "64"}),
            "hidden_size is \"64\"; expected an integer",
        ),
        (
            json!({"vocab_size": null}),
            "vocab_size is missing; expected an integer from 1 to",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "num_key_value_heads is 3; expected a divisor of num_attention_heads 4",
        ),
        (
            json!({"num_attention_heads": 0}),
            "num_attention_heads is 0; expected",
        ),
        (
            json!({"head_dim": null, "hidden_size": 66}),
            "num_attention_heads is 4; expected a divisor of hidden_size 66",
        ),
        (json!({"head_dim": 15}), "head_dim is 15; expected an even number"),
        (
            json!({"rms_norm_eps": 0}),
            "rms_norm_eps is 0; expected a positive number",
        ),
        (
            json!({"rms_norm_eps": null}),
            "rms_norm_eps is missing; expected a positive number",
        ),
        (
            json!({"hidden_act": "relu"}),
            "hidden_act is \"relu\"; expected silu",
        ),
        (
            json!({"attention_bias": "yes"}),
            "attention_bias is \"yes\"; expected true or false",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor is 0.5; expected 1",
        ),
        (
            json!({"eos_token_id": "</s>"}),
            "eos_token_id is \"</s>\"; expected a token id",
        ),
    ];
    for (fields, expected) in cases {
        let folder = Folder::of("tiny-llama").configure(fields.clone());
        let _ = std::fs::remove_file(folder.file("generation_config.json"));
        let text = folder.refusal();
        assert!(
            text.contains("config.json: ") && text.contains(expected),
            "{fields}: {text}"
        );
    }
}

#[test]
fn an_unknown_rope_type_is_named_in_either_spelling() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let new = refusal_of("tiny-llama", json!({"rope_parameters": yarn}));
    assert!(
        new.contains("rope_parameters.rope_type is yarn; expected default, linear or llama3"),
        "{new}"
    );
    let old = json!({"rope_parameters": null, "rope_scaling": {"type": "yarn", "factor": 4.0}});
    let old = refusal_of("tiny-llama", old);
    assert!(
        old.contains("rope_scaling.rope_type is yarn; expected default, linear or llama3"),
        "{old}"
    );
    let llama3 = json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}});
    let missing = refusal_of("tiny-llama", llama3);
    assert!(
        missing.contains("rope_parameters.low_freq_factor is missing; expected a positive number"),
        "{missing}"
    );
    let theta = refusal_of("tiny-llama", json!({"rope_parameters": {"rope_theta": -1}}));
    assert!(
        theta.contains("rope_parameters.rope_theta is -1; expected a positive number"),
        "{theta}"
    );
}

#[test]
fn layer_types_must_name_every_layer() {
    let fields = json!({"use_sliding_window": true, "sliding_window": 8, "layer_types": ["full_attention"]});
    let text = refusal_of("tiny-qwen2", fields);
    assert!(
        text.contains("layer_types is") && text.contains("expected 3 entries"),
        "{text}"
    );
}

#[test]
fn an_architecture_without_a_family_lists_every_reason() {
    let error = Folder::of("tiny-llama")
        .configure(json!({"model_type": "mamba"}))
        .load()
        .expect_err("a refusal");
    assert!(matches!(&error, LoadError::UnsupportedArchitecture { refusals, .. } if refusals.len() == 2));
    let text = error.to_string();
    assert!(text.contains("architecture mamba is not supported"), "{text}");
    assert!(
        text.contains("bert: it takes bert") && text.contains("llama: it takes llama, mistral, qwen2, qwen3")
    );
    let text = refusal_of(
        "tiny-llama",
        json!({"architectures": ["LlamaForSequenceClassification"]}),
    );
    assert!(
        text.contains("it takes LlamaForCausalLM, not LlamaForSequenceClassification"),
        "{text}"
    );
}

#[test]
fn a_quantization_without_code_is_refused_by_name() {
    let allowed = "weights are not supported by this build; expected 4-bit gptq, GGUF, or safetensors";
    for (config, method) in [
        (json!({"quant_method": "awq", "bits": 4}), "awq"),
        (json!({"quant_method": "bitsandbytes"}), "bitsandbytes"),
        (json!({"quant_method": "fp8"}), "fp8"),
        (json!({"bits": 4}), "unnamed quantization"),
        (
            json!({"quant_method": "gptq", "bits": 8, "group_size": 128}),
            "8-bit gptq",
        ),
    ] {
        let error = Folder::of("tiny-llama")
            .configure(json!({"quantization_config": config}))
            .load()
            .expect_err("a refusal");
        let text = error.to_string();
        assert!(
            matches!(&error, LoadError::UnsupportedQuantization { .. }),
            "{text}"
        );
        assert!(text.contains(&format!("{method} {allowed}")), "{text}");
    }
}

#[test]
fn a_path_that_is_no_checkpoint_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = open(folder.path()).err().expect("a refusal").to_string();
    assert!(
        text.contains("there is no config.json; expected a folder with config.json"),
        "{text}"
    );
    let text = open(&folder.path().join("absent"))
        .err()
        .expect("a refusal")
        .to_string();
    assert!(text.contains("absent: No such file"), "{text}");
    let no_weights = Folder::of("tiny-llama");
    std::fs::remove_file(no_weights.file("model.safetensors")).expect("removed");
    assert!(
        no_weights
            .refusal()
            .contains("neither model.safetensors nor model.safetensors.index.json is there")
    );
    let pickled = no_weights.write("pytorch_model.bin", "");
    assert!(pickled.refusal().contains("its weights are pytorch_model.bin"));
}

#[test]
fn a_missing_tokenizer_is_refused_when_it_is_asked_for() {
    let checkpoint = open(&fixture("tiny-llama")).expect("a checkpoint");
    let error = checkpoint.tokenizer().expect_err("a refusal");
    assert!(matches!(
        error,
        LoadError::MissingTokenizer {
            expected: "tokenizer.json",
            ..
        }
    ));
    let broken = Folder::of("tiny-llama").write("tokenizer.json", "{}");
    let error = open(broken.path())
        .expect("a checkpoint")
        .tokenizer()
        .expect_err("a refusal");
    assert!(matches!(error, LoadError::Tokenizer { .. }), "{error}");
}

#[test]
fn tensors_missing_misshapen_or_left_over_are_named() {
    let text = refusal_of("tiny-llama", json!({"num_hidden_layers": 4}));
    assert!(
        text.contains("tensor model.layers.3.input_layernorm.weight is missing"),
        "{text}"
    );
    let text = refusal_of("tiny-llama", json!({"num_hidden_layers": 2}));
    assert!(
        text.contains("9 tensors are not part of this architecture, such as model.layers.2."),
        "{text}"
    );
    let text = refusal_of("tiny-llama", json!({"intermediate_size": 64}));
    assert!(
        text.contains("mlp.gate_proj.weight has shape [128, 64]; the configuration expects [64, 64]"),
        "{text}"
    );
    let text = refusal_of(
        "tiny-qwen2",
        json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
    );
    assert!(text.contains("self_attn.k_proj.bias"), "{text}");
}

#[test]
fn options_beyond_the_model_are_refused() {
    let refuse = |options: LoadOptions<'_>| {
        let checkpoint = open(&fixture("tiny-llama")).expect("a checkpoint");
        checkpoint
            .load(&common::backend(), &options)
            .err()
            .expect("a refusal")
            .to_string()
    };
    let longer = LoadOptions {
        max_model_len: Some(513),
        ..LoadOptions::default()
    };
    assert_eq!(
        refuse(longer),
        "max_model_len is 513; expected at most the model's 512"
    );
    let gguf = LoadOptions {
        quantization: Quantization::Gguf,
        dtype: Dtype::Auto,
        ..LoadOptions::default()
    };
    assert!(refuse(gguf).contains("quantization is gguf; expected auto or none"));
    let nothing = LoadOptions {
        max_num_seqs: 0,
        ..LoadOptions::default()
    };
    assert_eq!(refuse(nothing), "max_num_seqs is 0; expected 1 or more");
}

#[test]
fn a_gguf_tensor_in_a_format_without_code_is_named() {
    let tensor = Tensor {
        name: "token_embd.weight".to_owned(),
        shape: vec![1, 256],
        kind: 10,
        bytes: vec![0; 84],
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let file = gguf::write(&[("general.architecture", Meta::Text("llama"))], &[tensor]);
    std::fs::write(&path, file).expect("written");
    let error = open(&path).err().expect("a refusal");
    assert!(matches!(error, LoadError::UnsupportedFormat { .. }));
    assert!(
        error
            .to_string()
            .contains("tensor token_embd.weight is stored as Q2_K; expected one of F32, F16")
    );
}

#[test]
fn a_gguf_field_is_named_as_the_file_spells_it() {
    let metadata = [
        ("general.architecture", Meta::Text("llama")),
        ("llama.block_count", Meta::U32(0)),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, gguf::write(&metadata, &[])).expect("written");
    let text = open(&path).err().expect("a refusal").to_string();
    assert!(
        text.contains("llama.block_count is 0; expected an integer from 1 to 1024"),
        "{text}"
    );
}
