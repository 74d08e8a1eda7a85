//! Blocks of 32 elements: `x = d * q + m`.

use super::f16_at;

/// d f16, 16 bytes of nibbles: element j in the low half of byte j, element 16 + j in the high half.
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], |j, q| out[j] = d * (f32::from(q) - 8.0));
}

/// d, m f16, then as Q4_0.
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], |j, q| out[j] = d * f32::from(q) + m);
}

/// d f16, u32 of fifth bits (element j in bit j), then as Q4_0.
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], |j, q| {
        out[j] = d * (f32::from(fifth_bit(q, high, j)) - 16.0)
    });
}

/// d, m f16, u32 of fifth bits, then as Q4_0.
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], |j, q| {
        out[j] = d * f32::from(fifth_bit(q, high, j)) + m
    });
}

/// d f16, 32 signed bytes.
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (o, &q) in out.iter_mut().zip(&block[2..]) {
        *o = d * f32::from(q as i8);
    }
}

fn nibbles(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    for (j, byte) in bytes[..16].iter().enumerate() {
        each(j, byte & 15);
        each(j + 16, byte >> 4);
    }
}

fn fifth_bit(nibble: u8, high: u32, j: usize) -> u8 {
    nibble | ((high >> j & 1) << 4) as u8
}
