//! From a checkpoint's blocks to f32, without intrinsics: the reference of every packed format.
//!
//! Layouts of the GGUF formats: `ggml-common.h` and `dequantize_row_*` in `ggml-quants.c` of ggml.

mod block256;
mod block32;
mod grouped;

use crate::tensor::WeightFormat;

pub(crate) use block256::{q6_k_at, scale_min_k4};

/// Elements of `bytes`, `out.len()` of them.
///
/// # Panics
/// If `bytes` does not hold exactly `out.len()` elements.
pub fn dequantize_into(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.bytes_of(out.len()),
        Some(bytes.len()),
        "{} elements of {format}",
        out.len()
    );
    let blocks = bytes
        .chunks_exact(format.block_bytes())
        .zip(out.chunks_exact_mut(format.block_len()));
    let block: fn(&[u8], &mut [f32]) = match format {
        WeightFormat::F32 => |b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        WeightFormat::F16 => |b, o| o[0] = f16_at(b, 0),
        WeightFormat::BF16 => |b, o| o[0] = half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        WeightFormat::Q4_0 => block32::q4_0,
        WeightFormat::Q4_1 => block32::q4_1,
        WeightFormat::Q5_0 => block32::q5_0,
        WeightFormat::Q5_1 => block32::q5_1,
        WeightFormat::Q8_0 => block32::q8_0,
        WeightFormat::Q4K => block256::q4_k,
        WeightFormat::Q5K => block256::q5_k,
        WeightFormat::Q6K => block256::q6_k,
        WeightFormat::Int4G32 | WeightFormat::Int4G64 | WeightFormat::Int4G128 => grouped::int4,
    };
    for (bytes, out) in blocks {
        block(bytes, out);
    }
}

/// The little-endian half at byte `at`.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
