//! Super-blocks of 256 elements whose scales are quantized themselves.

use super::f16_at;

/// d, dmin f16; 12 bytes of eight 6-bit scales and minimums; 128 bytes of nibbles: sub-blocks 2i and 2i + 1
/// in the low and high halves of bytes 32i..32i + 32. `x = d * scale * q - dmin * min`.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min_k4(&block[4..16], sub);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let nibbles = &block[16 + sub / 2 * 32..][..32];
        for (o, byte) in out.iter_mut().zip(nibbles) {
            *o = scale * f32::from(byte >> (4 * (sub % 2)) & 15) - min;
        }
    }
}

/// As Q4_K with 32 bytes of fifth bits before the nibbles: bit s of byte j for element j of sub-block s.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let high = &block[16..48];
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min_k4(&block[4..16], sub);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let nibbles = &block[48 + sub / 2 * 32..][..32];
        for ((o, byte), high) in out.iter_mut().zip(nibbles).zip(high) {
            let q = byte >> (4 * (sub % 2)) & 15 | (high >> sub & 1) << 4;
            *o = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales (one for 16 elements), d f16. In each
/// half of 128 elements, element 32s + j has nibble s / 2 of byte 32 (s % 2) + j and pair s of byte j.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 208);
    for (at, o) in out.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + at / 16] as i8);
        *o = scale * (f32::from(q6_k_at(block, at)) - 32.0);
    }
}

/// Element `at` of a Q6_K block, 0..64.
pub(crate) fn q6_k_at(block: &[u8], at: usize) -> u8 {
    let (half, s, j) = (at / 128, at % 128 / 32, at % 32);
    let low = block[64 * half + 32 * (s % 2) + j] >> (4 * (s / 2)) & 15;
    let high = block[128 + 32 * half + j] >> (2 * s) & 3;
    low | high << 4
}

/// Scale and minimum of sub-block `sub` out of 12 bytes: the low 6 bits of bytes 0..4 and 4..8 for the first
/// four; for the others low nibble (scale) and high nibble (minimum) of bytes 8..12, topped up with the high
/// bit pairs of the first eight bytes.
pub(crate) fn scale_min_k4(packed: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        return (packed[sub] & 63, packed[sub + 4] & 63);
    }
    let low = packed[sub + 4];
    (
        low & 15 | packed[sub - 4] >> 6 << 4,
        low >> 4 | packed[sub] >> 6 << 4,
    )
}
