//! Groups of 4-bit levels with a scale and a zero level: `x = scale * (level - zero)`.

use super::f16_at;

/// Scale f16, zero level u8, a byte that is 0, then two levels a byte, the first in its low half. The difference
/// takes 5 bits and the scale 11, so that the product is exact.
pub(super) fn int4(block: &[u8], out: &mut [f32]) {
    let (scale, zero) = (f16_at(block, 0), f32::from(block[2]));
    for (out, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(&block[4..]) {
        *out = [byte & 15, byte >> 4].map(|level| scale * (f32::from(level) - zero));
    }
}
