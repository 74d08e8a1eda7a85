//! GPTQ checkpoints against the transformers library, which computed with the dequantized weights.

mod common;

use std::collections::BTreeMap;

use common::{Reference, check_logits, decoder::Decoder, fixture, folder::Folder};
use ferrum_engine::Quantization;
use ferrum_models::{LoadOptions, open};
use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

const FIXTURES: [&str; 4] = [
    "tiny-llama-gptq-sym-g128",
    "tiny-llama-gptq-asym-descact-g128",
    "tiny-qwen2-gptq-sym-g32",
    "tiny-qwen2-gptq-sym-g-1",
];

/// All fixtures have 2 layers; the longest sum is over the MLP's 384 inputs.
const LAYERS: usize = 2;
const LONGEST_SUM: usize = 384;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(folder: &Folder) -> Tensors {
    let bytes = std::fs::read(folder.file("model.safetensors")).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn write(folder: &Folder, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), bytes).expect("bytes that fit"),
        )
    });
    let data = safetensors::serialize(views, None).expect("serialized");
    std::fs::write(folder.file("model.safetensors"), data).expect("written");
}

fn words(tensors: &Tensors, name: &str) -> Vec<u32> {
    let bytes = &tensors[name].2;
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&word| u32::from_le_bytes(word))
        .collect()
}

/// The checkpoint with dense layers of `scale * (level - zero)`.
fn dequantized(name: &str) -> Folder {
    let folder = Folder::of(name).configure(json!({"quantization_config": null}));
    std::fs::remove_file(folder.file("quantize_config.json")).expect("removed");
    let mut tensors = read(&folder);
    let modules: Vec<String> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix(".qweight").map(str::to_owned))
        .collect();
    for module in modules {
        let take = |end: &str| words(&tensors, &format!("{module}.{end}"));
        let (levels, zeros, groups) = (take("qweight"), take("qzeros"), take("g_idx"));
        let scales = &tensors[&format!("{module}.scales")];
        let (cols, rows) = (groups.len(), scales.1[1]);
        let scales: Vec<f32> = scales
            .2
            .as_chunks()
            .0
            .iter()
            .map(|&half| f16::from_le_bytes(half).to_f32())
            .collect();
        let mut bytes = Vec::new();
        for row in 0..rows {
            for (input, &group) in groups.iter().enumerate() {
                let group = group as usize;
                let level = levels[input / 8 * rows + row] >> (4 * (input % 8)) & 15;
                let zero = (zeros[group * (rows / 8) + row / 8] >> (4 * (row % 8)) & 15) + 1;
                let x = scales[group * rows + row] * (level as f32 - zero as f32);
                bytes.extend(x.to_le_bytes());
            }
        }
        for end in ["qweight", "qzeros", "scales", "g_idx"] {
            tensors.remove(&format!("{module}.{end}"));
        }
        tensors.insert(format!("{module}.weight"), (Dtype::F32, vec![rows, cols], bytes));
    }
    write(&folder, &tensors);
    folder
}

fn prefill(folder: &std::path::Path, prompt: &[u32]) -> Vec<f32> {
    Decoder::load(folder, &LoadOptions::default())
        .prefill(prompt)
        .concat()
}

#[test]
fn dequantized_weights_equal_the_reference() {
    for name in FIXTURES {
        let folder = dequantized(name);
        Decoder::load(folder.path(), &LoadOptions::default()).check_against_reference(
            name,
            LAYERS,
            LONGEST_SUM,
        );
    }
}

/// On the CPU 4-bit weights are multiplied with activations of 8 bits: a value moves by up to half a level, a
/// 127th of the largest of its 32, with a deviation of that level over the root of 12. The largest of 32 is at most
/// three times their root mean square or so, so that each of a layer's seven products (q, k, v, output, gate, up, down)
/// errs by 3 / (127 * sqrt(12)) of its size, and the errors add up as their squares do. The largest of twelve thousand
/// logits lies some four deviations out.
#[test]
fn four_bits_are_as_near_as_the_rounding_of_activations() {
    for name in FIXTURES {
        check_four_bits(name, &fixture(name));
    }
}

/// Checks the logits of a checkpoint with the weights of fixture `name`.
fn check_four_bits(name: &str, folder: &std::path::Path) {
    let reference = Reference::read(name);
    let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
    let logits = prefill(folder, &prompt);
    let mean_square = expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32;
    let sums = (7.0 * LAYERS as f32).sqrt();
    let tolerance = 4.0 * sums * 3.0 / (127.0 * 12.0_f32.sqrt()) * mean_square.sqrt();
    let difference = check_logits(name, &logits, &expected, tolerance);
    assert!(difference > 0.0, "{name}: nothing was rounded");
}

/// The same weights with groups of three sizes and a layer that is not quantized.
#[test]
fn layers_follow_the_rules_that_the_checkpoint_has_for_them() {
    let name = "tiny-llama-gptq-sym-g128";
    let dense = "model.layers.1.mlp.down_proj";
    let folder = Folder::of(name).configure(quantization(&json!({"dynamic": {
        "-:model\\.layers\\.1\\.mlp\\.down_proj": {},
        ".*\\.down_proj": {"group_size": 32},
        "+:.*\\.layers\\.1\\.": {"group_size": 64, "desc_act": true},
        "lm_head": {},
    }})));
    let mut tensors = read(&folder);
    let dequantized = read(&dequantized(name));
    tensors.retain(|name, _| !name.starts_with(dense));
    let dense = format!("{dense}.weight");
    tensors.insert(dense.clone(), dequantized[&dense].clone());
    let modules: Vec<String> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix(".qweight").map(str::to_owned))
        .collect();
    for module in modules {
        if module.ends_with("down_proj") {
            regroup(&mut tensors, &module, 32);
        } else if module.contains("layers.1.") {
            regroup(&mut tensors, &module, 64);
        }
    }
    write(&folder, &tensors);
    let checkpoint = open(folder.path()).expect("a checkpoint");
    assert_eq!(checkpoint.facts().weights, "gptq int4 g128, g32, g64");
    check_four_bits(name, folder.path());
}

/// Stores a layer with groups of 128 in smaller ones.
fn regroup(tensors: &mut Tensors, module: &str, group_size: usize) {
    for end in ["scales", "qzeros"] {
        let (_, shape, bytes) = tensors.get_mut(&format!("{module}.{end}")).expect("a tensor");
        let group_bytes = bytes.len() / shape[0];
        let groups = bytes.chunks_exact(group_bytes);
        *bytes = groups.flat_map(|group| group.repeat(128 / group_size)).collect();
        shape[0] *= 128 / group_size;
    }
    let (_, shape, bytes) = tensors.get_mut(&format!("{module}.g_idx")).expect("a tensor");
    *bytes = (0..shape[0])
        .flat_map(|input| ((input / group_size) as u32).to_le_bytes())
        .collect();
}

#[test]
fn the_card_says_how_the_weights_are_quantized() {
    for (name, label) in FIXTURES.into_iter().zip(["g128", "g128", "g32", "g-1"]) {
        let checkpoint = open(&fixture(name)).expect("a checkpoint");
        assert_eq!(checkpoint.facts().weights, format!("gptq int4 {label}"), "{name}");
        let dense = dequantized(name);
        let dense = open(dense.path()).expect("a checkpoint");
        assert_eq!(
            checkpoint.facts().num_parameters,
            dense.facts().num_parameters,
            "{name}"
        );
    }
}

#[test]
fn the_quantization_that_was_asked_for_must_be_there() {
    let load = |name: &str, quantization| {
        let options = LoadOptions {
            quantization,
            ..LoadOptions::default()
        };
        let checkpoint = open(&fixture(name)).expect("a checkpoint");
        checkpoint
            .load(&common::backend(), &options)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    for quantization in [Quantization::Auto, Quantization::GptqInt4] {
        assert_eq!(load(FIXTURES[0], quantization), Ok(()));
    }
    for (name, quantization, message) in [
        (
            FIXTURES[0],
            Quantization::None,
            "quantization is none; expected auto or gptq-int4, as",
        ),
        (
            FIXTURES[0],
            Quantization::Gguf,
            "quantization is gguf; expected auto or gptq-int4, as",
        ),
        (
            "tiny-llama",
            Quantization::GptqInt4,
            "quantization is gptq-int4; expected auto or none, as",
        ),
    ] {
        let text = load(name, quantization).expect_err("a contradiction");
        assert!(text.contains(message), "{text}");
    }
}

/// Each is a way in which published files differ without meaning anything else.
#[test]
fn other_spellings_of_a_checkpoint_give_the_same_bits() {
    let name = "tiny-llama-gptq-sym-g128";
    let prompt = Reference::read(name).ids("input_ids");
    let expected = prefill(&fixture(name), &prompt);
    let second_version = Folder::of(name).configure(quantization(&json!({"checkpoint_format": "gptq_v2"})));
    let mut tensors = read(&second_version);
    for (name, tensor) in &mut tensors {
        if name.ends_with(".qzeros") {
            tensor.2.fill(0x88);
        }
    }
    write(&second_version, &tensors);
    assert_eq!(prefill(second_version.path(), &prompt), expected, "gptq_v2");

    let own_file = Folder::of(name).configure(json!({"quantization_config": null}));
    assert_eq!(
        prefill(own_file.path(), &prompt),
        expected,
        "quantize_config.json alone"
    );

    let older = Folder::of(name);
    let mut tensors = read(&older);
    tensors.retain(|name, _| !name.ends_with(".g_idx"));
    let rows = tensors["model.layers.0.mlp.up_proj.scales"].1[1];
    let bias = (Dtype::F16, vec![rows], vec![0; 2 * rows]);
    tensors.insert("model.layers.0.mlp.up_proj.bias".to_owned(), bias.clone());
    write(&older, &tensors);
    assert_eq!(
        prefill(older.path(), &prompt),
        expected,
        "no g_idx, and biases of zeros"
    );
    tensors.insert(
        "model.layers.0.mlp.up_proj.bias".to_owned(),
        (bias.0, bias.1, vec![1; 2 * rows]),
    );
    write(&older, &tensors);
    let text = older.refusal();
    assert!(
        text.contains("1 tensors are not part of this architecture"),
        "{text}"
    );
}

/// The fixture's own fields with some of them changed.
fn quantization(changes: &Value) -> Value {
    let mut fields = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": false,
        "checkpoint_format": "gptq",
    });
    for (name, value) in changes.as_object().expect("fields") {
        fields[name] = value.clone();
    }
    json!({ "quantization_config": fields })
}

#[test]
fn a_kind_of_gptq_without_code_is_refused_by_its_field() {
    for (changes, message) in [
        (
            json!({"bits": null}),
            "quantization_config.bits is missing; expected 4",
        ),
        (
            json!({"group_size": 16}),
            "quantization_config.group_size is 16; expected 32, 64, 128 or -1",
        ),
        (
            json!({"checkpoint_format": "marlin"}),
            "quantization_config.checkpoint_format is \"marlin\"; expected gptq or gptq_v2",
        ),
        (
            json!({"pack_dtype": "int64"}),
            "quantization_config.pack_dtype is \"int64\"; expected int32",
        ),
    ] {
        let text = Folder::of(FIXTURES[0])
            .configure(quantization(&changes))
            .refusal();
        assert!(text.contains("config.json: ") && text.contains(message), "{text}");
    }
    let text = Folder::of("tiny-llama")
        .configure(quantization(&json!({})))
        .refusal();
    assert!(
        text.contains("says gptq, and there is no tensor that ends with .qweight"),
        "{text}"
    );
}

#[test]
fn tensors_that_contradict_one_another_are_named() {
    let module = "model.layers.1.mlp.down_proj";
    let damaged = |damage: &dyn Fn(&mut Tensors)| {
        let folder = Folder::of("tiny-llama-gptq-asym-descact-g128");
        let mut tensors = read(&folder);
        damage(&mut tensors);
        write(&folder, &tensors);
        folder.refusal()
    };
    let text = damaged(&|tensors| {
        let (_, _, bytes) = tensors.get_mut(&format!("{module}.g_idx")).expect("a tensor");
        bytes[..4].copy_from_slice(&9_u32.to_le_bytes());
    });
    assert!(
        text.contains(&format!("tensor {module}.g_idx")) && text.contains("expected 128 inputs"),
        "{text}"
    );
    let text = damaged(&|tensors| drop(tensors.remove(&format!("{module}.qzeros"))));
    assert!(
        text.contains(&format!("tensor {module}.qzeros is missing")),
        "{text}"
    );
    let text = damaged(&|tensors| {
        tensors.get_mut(&format!("{module}.qweight")).expect("a tensor").1 = vec![24, 512];
    });
    assert!(
        text.contains(&format!("{module}.qweight has shape [24, 512]")),
        "{text}"
    );
    let text = damaged(&|tensors| {
        tensors.get_mut(&format!("{module}.qzeros")).expect("a tensor").0 = Dtype::F32;
    });
    assert!(
        text.contains(&format!(
            "tensor {module}.qzeros is stored as F32; expected one of I32"
        )),
        "{text}"
    );
}
