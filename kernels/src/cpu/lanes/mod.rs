//! Sixteen f32 at a time, in the instruction set that the processor has.
//!
//! A kernel is written once, generic over [`Lanes`], and compiled for each instruction set:
//! [`CpuBackend::vectorize`] runs it where the right instructions may be used. Every instruction set works
//! on sixteen lanes and adds them up in the same order; AVX2 and AVX-512 give the same bits, the portable
//! one rounds between the product and the sum of a multiply-add where the processor has no fused one.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod math;
mod portable;

use crate::cpu::{CpuBackend, Isa};

pub(crate) use math::{exp, exp2, normal_cdf, sigmoid};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Vectors of sixteen f32. A value of an implementing type is the proof that this processor has the
/// instructions, so that the operations are safe to call.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type V: Copy;

    /// Vectors of sums that fit the registers, with room for the operands.
    const ACCUMULATORS: usize;

    /// Runs `kernel` compiled with the instructions of this set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    /// `0, 1, .. 15`.
    fn iota(self) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Half precision bits, widened exactly.
    fn load_f16(self, from: &[u16; LANES]) -> Self::V;
    /// Rounds to half precision, ties to even.
    fn store_f16(self, v: Self::V, to: &mut [u16; LANES]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v * 2^n` for integers `n` from -126 to 127; infinity, or the product if it is finite, for 128.
    fn scale(self, v: Self::V, n: Self::V) -> Self::V;
    /// `then` in lanes where `a < b`, `otherwise` elsewhere (NaN included).
    fn select_lt(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// Asks for the cache line at `address`, which may be any.
    fn prefetch(self, address: *const u8);
    /// Whether any lane of `a` is greater than its lane of `b`.
    fn any_gt(self, a: Self::V, b: Self::V) -> bool;

    /// The sum of all lanes: halves added to one another until one lane is left.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;

    /// Up to sixteen elements, then `fill`.
    #[inline(always)]
    fn load_partial(self, from: &[f32], fill: f32) -> Self::V {
        if let Ok(whole) = from.try_into() {
            return self.load(whole);
        }
        let mut x = [fill; LANES];
        x[..from.len()].copy_from_slice(from);
        self.load(&x)
    }

    /// The first `to.len()` lanes.
    #[inline(always)]
    fn store_partial(self, v: Self::V, to: &mut [f32]) {
        let mut x = [0.0; LANES];
        self.store(v, &mut x);
        to.copy_from_slice(&x[..to.len()]);
    }
}

/// A computation to be compiled for every instruction set; mark `run` `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Lanes>(self, s: S) -> Self::Output;
}

impl CpuBackend {
    /// Runs `kernel` with this backend's instruction set.
    pub(crate) fn vectorize<K: Kernel>(&self, kernel: K) -> K::Output {
        match self.isa() {
            // SAFETY: `CpuBackend::with_isa` has checked that the processor has the instruction set.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => unsafe { avx512::Avx512::assume() }.vectorize(kernel),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::Avx2::assume() }.vectorize(kernel),
            _ => portable::Portable.vectorize(kernel),
        }
    }
}

#[cfg(test)]
mod tests;
