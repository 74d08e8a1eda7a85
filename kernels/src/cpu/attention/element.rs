//! Elements of the KV cache.

use half::f16;

use crate::cpu::{
    buffer::Zeroable,
    lanes::{LANES, Lanes},
};

/// An element type that keys and values are stored in.
pub(super) trait Element: Zeroable {
    const ZERO: Self;

    /// Whether tiles of this type are mostly read from memory, rather than from a copy in the cache.
    const FROM_MEMORY: bool;

    fn load<S: Lanes>(s: S, from: &[Self; LANES]) -> S::V;
    fn store<S: Lanes>(s: S, v: S::V, to: &mut [Self; LANES]);
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const FROM_MEMORY: bool = false;

    #[inline(always)]
    fn load<S: Lanes>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }

    #[inline(always)]
    fn store<S: Lanes>(s: S, v: S::V, to: &mut [Self; LANES]) {
        s.store(v, to);
    }

    fn to_f32(self) -> f32 {
        self
    }
}

/// Bits of half precision.
impl Element for u16 {
    const ZERO: Self = 0;
    const FROM_MEMORY: bool = true;

    #[inline(always)]
    fn load<S: Lanes>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_f16(from)
    }

    #[inline(always)]
    fn store<S: Lanes>(s: S, v: S::V, to: &mut [Self; LANES]) {
        s.store_f16(v, to);
    }

    fn to_f32(self) -> f32 {
        f16::from_bits(self).to_f32()
    }
}
