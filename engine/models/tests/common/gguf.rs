//! Writes GGUF files for tests.

use std::path::Path;

use safetensors::SafeTensors;

/// A metadata value.
pub(crate) enum Meta<'a> {
    Bool(bool),
    F32(f32),
    I32s(&'a [i32]),
    Text(&'a str),
    Texts(&'a [&'a str]),
    U32(u32),
}

/// A tensor: name, outermost dimension first, ggml type, bytes.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;

/// The bytes of a version 3 file.
pub(crate) fn write(metadata: &[(&str, Meta<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut file, key);
        put_value(&mut file, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        put_text(&mut file, &tensor.name);
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        for dim in tensor.shape.iter().rev() {
            file.extend((*dim as u64).to_le_bytes());
        }
        file.extend(tensor.kind.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(32) as u64;
    }
    for tensor in tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&tensor.bytes);
    }
    file
}

fn put_text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn put_value(file: &mut Vec<u8>, value: &Meta<'_>) {
    let kind = |file: &mut Vec<u8>, kind: u32| file.extend(kind.to_le_bytes());
    match value {
        Meta::Bool(value) => {
            kind(file, 7);
            file.push(u8::from(*value));
        }
        Meta::F32(value) => {
            kind(file, 6);
            file.extend(value.to_le_bytes());
        }
        Meta::I32s(values) => {
            kind(file, 9);
            kind(file, 5);
            file.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| file.extend(value.to_le_bytes()));
        }
        Meta::Text(value) => {
            kind(file, 8);
            put_text(file, value);
        }
        Meta::Texts(values) => {
            kind(file, 9);
            kind(file, 8);
            file.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_text(file, value));
        }
        Meta::U32(value) => {
            kind(file, 4);
            file.extend(value.to_le_bytes());
        }
    }
}

/// A safetensors fixture of f32 as GGUF tensors, named and ordered as llama.cpp's converter does; `heads` of queries and
/// of keys are interleaved for architecture llama.
pub(crate) fn convert(folder: &Path, heads: Option<(usize, usize)>) -> Vec<Tensor> {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors: Vec<Tensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let heads = heads.and_then(|(q, k)| match &name {
                name if name.contains("q_proj") => Some(q),
                name if name.contains("k_proj") => Some(k),
                _ => None,
            });
            Tensor {
                bytes: match heads {
                    Some(heads) => interleave(view.data(), view.shape()[0], heads),
                    None => view.data().to_vec(),
                },
                shape: view.shape().to_vec(),
                kind: F32,
                name: gguf_name(&name),
            }
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

fn interleave(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row_bytes, head_dim) = (data.len() / rows, rows / heads);
    let mut out = Vec::with_capacity(data.len());
    for row in 0..rows {
        let (head, i) = (row / head_dim, row % head_dim);
        let source = head * head_dim + (i % 2) * head_dim / 2 + i / 2;
        out.extend_from_slice(&data[source * row_bytes..(source + 1) * row_bytes]);
    }
    out
}

fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 16] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("rope_freqs", "rope_freqs"),
    ];
    PARTS
        .iter()
        .fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf))
}
