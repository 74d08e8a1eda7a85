//! The same weights from GGUF and from safetensors give the same bits: names, dimensions, and the order of query and key
//! rows of architecture llama.

mod common;

use std::{path::Path, time::Duration};

use common::{
    Reference,
    decoder::Decoder,
    fixture,
    gguf::{self, Meta, Tensor},
    ranks::Ranks,
};
use ferrum_kernels::cpu::CpuBackend;
use ferrum_models::LoadOptions;

struct Case {
    fixture: &'static str,
    architecture: &'static str,
    head_dim: u32,
    theta: f32,
    eps: f32,
}

fn metadata<'a>(case: &'a Case, keys: &'a [String]) -> Vec<(&'a str, Meta<'a>)> {
    let values = [
        Meta::U32(3),
        Meta::U32(512),
        Meta::U32(64),
        Meta::U32(128),
        Meta::U32(4),
        Meta::U32(2),
        Meta::U32(case.head_dim),
        Meta::F32(case.theta),
        Meta::F32(case.eps),
    ];
    let pairs = keys.iter().map(String::as_str).zip(values);
    std::iter::once(("general.architecture", Meta::Text(case.architecture)))
        .chain(pairs)
        .collect()
}

fn keys(architecture: &str) -> Vec<String> {
    let names = [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
    ];
    names.map(|name| format!("{architecture}.{name}")).to_vec()
}

fn check(case: &Case, more: Vec<Tensor>) {
    let heads = (case.architecture == "llama").then_some((4, 2));
    let mut tensors = gguf::convert(&fixture(case.fixture), heads);
    tensors.extend(more);
    let keys = keys(case.architecture);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, gguf::write(&metadata(case, &keys), &tensors)).expect("written");
    let prompt = Reference::read(case.fixture).ids("input_ids");
    let options = LoadOptions::default();
    let expected = Decoder::load(&fixture(case.fixture), &options).prefill(&prompt);
    assert_eq!(
        Decoder::load(&path, &options).prefill(&prompt),
        expected,
        "{}",
        case.fixture
    );
    // A folder with nothing but the file is opened as the file.
    assert_eq!(Decoder::load(folder.path(), &options).prefill(&prompt), expected);
    // Each of two devices takes its own rows and columns of either.
    assert_eq!(split(&path, &prompt), split(&fixture(case.fixture), &prompt));
}

/// Logits of a prompt on two devices, which here are threads.
fn split(path: &Path, prompt: &[u32]) -> Vec<Vec<f32>> {
    let backends = CpuBackend::ranks(2, 1, Duration::from_secs(60));
    Ranks::load_on(backends, path).prefill(prompt)
}

#[test]
fn llama_with_interleaved_head_rows() {
    let case = Case {
        fixture: "tiny-llama",
        architecture: "llama",
        head_dim: 16,
        theta: 1e4,
        eps: 1e-5,
    };
    check(&case, vec![]);
}

#[test]
fn qwen2_with_biases_and_tied_embeddings() {
    let case = Case {
        fixture: "tiny-qwen2",
        architecture: "qwen2",
        head_dim: 16,
        theta: 1e6,
        eps: 1e-6,
    };
    check(&case, vec![]);
}

#[test]
fn qwen3_with_head_norms() {
    let case = Case {
        fixture: "tiny-qwen3",
        architecture: "qwen3",
        head_dim: 32,
        theta: 1e6,
        eps: 1e-6,
    };
    check(&case, vec![]);
}

/// Biases of products that are summed over devices are added by one of them.
#[test]
fn biases_of_every_projection_on_one_device_and_on_two() {
    let case = Case {
        fixture: "tiny-llama",
        architecture: "llama",
        head_dim: 16,
        theta: 1e4,
        eps: 1e-5,
    };
    let mut tensors = gguf::convert(&fixture(case.fixture), Some((4, 2)));
    let widths = [
        ("attn_q", 64),
        ("attn_k", 32),
        ("attn_v", 32),
        ("attn_output", 64),
        ("ffn_gate", 128),
        ("ffn_up", 128),
        ("ffn_down", 64),
    ];
    for (name, width) in
        (0..3).flat_map(|layer| widths.map(|(name, width)| (format!("blk.{layer}.{name}"), width)))
    {
        let values = (0..width).map(|i| ((i * 37 + name.len() * 11) % 19) as f32 / 19.0 - 0.5);
        tensors.push(Tensor {
            name: format!("{name}.bias"),
            shape: vec![width],
            kind: gguf::F32,
            bytes: values.flat_map(f32::to_le_bytes).collect(),
        });
    }
    let keys = keys(case.architecture);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, gguf::write(&metadata(&case, &keys), &tensors)).expect("written");
    let reference = Reference::read(case.fixture);
    let prompt = reference.ids("input_ids");
    let expected = Decoder::load(&path, &LoadOptions::default())
        .prefill(&prompt)
        .concat();
    let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let tolerance = common::f32_tolerance(3, 128, largest);
    let difference = common::max_difference(&split(&path, &prompt).concat(), &expected);
    assert!(difference <= tolerance, "{difference:e} of {tolerance:e}");
    let without = reference.floats("logits");
    assert!(common::max_difference(&expected, &without) > 100.0 * tolerance);
}

/// llama.cpp's converter writes Llama 3's scaling as divisors of the frequencies: 1 for high ones, the factor for low
/// ones, `1 / ((1 - ramp) / factor + ramp)` between. Rounded otherwise than the rule itself, so that a tolerance is due.
#[test]
fn llama3_scaling_as_a_tensor_of_divisors() {
    let (factor, low, high, original, theta, head_dim) = (8.0_f64, 1.0, 4.0, 64.0, 5e5_f64, 32);
    let divisors: Vec<u8> = (0..head_dim / 2)
        .flat_map(|i| {
            let wavelength = 2.0 * std::f64::consts::PI * theta.powf(f64::from(2 * i) / f64::from(head_dim));
            let ramp = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 / ((1.0 - ramp) / factor + ramp)) as f32).to_le_bytes()
        })
        .collect();
    let tensor = Tensor {
        name: "rope_freqs.weight".to_owned(),
        shape: vec![16],
        kind: gguf::F32,
        bytes: divisors,
    };
    let case = Case {
        fixture: "tiny-llama3-rope",
        architecture: "llama",
        head_dim: 32,
        theta: 5e5,
        eps: 1e-5,
    };
    let mut tensors = gguf::convert(&fixture(case.fixture), Some((4, 2)));
    tensors.push(tensor);
    let keys = keys(case.architecture);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, gguf::write(&metadata(&case, &keys), &tensors)).expect("written");
    let reference = Reference::read(case.fixture);
    let logits = Decoder::load(&path, &LoadOptions::default())
        .prefill(&reference.ids("input_ids"))
        .concat();
    let expected = reference.floats("logits");
    let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let tolerance = common::f32_tolerance(3, 128, largest);
    let difference = common::max_difference(&logits, &expected);
    common::report(format_args!(
        "largest difference {difference:e}, tolerance {tolerance:e}"
    ));
    assert!(difference <= tolerance, "{difference:e} of {tolerance:e}");
}
