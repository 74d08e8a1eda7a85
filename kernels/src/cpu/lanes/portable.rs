//! Plain Rust, which the compiler vectorises with the target's baseline.

use half::f16;

use crate::cpu::lanes::{Kernel, LANES, Lanes};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct F32x16([f32; LANES]);

#[inline(always)]
fn map(mut a: F32x16, f: impl Fn(f32) -> f32) -> F32x16 {
    for x in &mut a.0 {
        *x = f(*x);
    }
    a
}

#[inline(always)]
fn zip(mut a: F32x16, b: F32x16, f: impl Fn(f32, f32) -> f32) -> F32x16 {
    for (x, y) in a.0.iter_mut().zip(b.0) {
        *x = f(*x, y);
    }
    a
}

impl Lanes for Portable {
    type V = F32x16;
    // Four registers a vector, of 16 (SSE2) or 32.
    const ACCUMULATORS: usize = if cfg!(target_arch = "x86_64") { 3 } else { 6 };

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        F32x16([x; LANES])
    }

    #[inline(always)]
    fn iota(self) -> F32x16 {
        F32x16(std::array::from_fn(|i| i as f32))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> F32x16 {
        F32x16(*from)
    }

    #[inline(always)]
    fn store(self, v: F32x16, to: &mut [f32; LANES]) {
        *to = v.0;
    }

    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> F32x16 {
        F32x16(from.map(|bits| f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    fn store_f16(self, v: F32x16, to: &mut [u16; LANES]) {
        *to = v.0.map(|x| f16::from_f32(x).to_bits());
    }

    #[inline(always)]
    fn add(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: F32x16, b: F32x16, mut c: F32x16) -> F32x16 {
        for ((c, a), b) in c.0.iter_mut().zip(a.0).zip(b.0) {
            // Without the instruction `f32::mul_add` calls a function for every element.
            *c = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                a.mul_add(b, *c)
            } else {
                a * b + *c
            };
        }
        c
    }

    #[inline(always)]
    fn max(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: F32x16, b: F32x16) -> F32x16 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, v: F32x16) -> F32x16 {
        // Adding 1.5 * 2^23 leaves no bits for a fraction; `round_ties_even` may be a function call.
        const SHIFT: f32 = 12_582_912.0;
        map(v, |x| {
            if x.abs() < 4_194_304.0 {
                x + SHIFT - SHIFT
            } else {
                x
            }
        })
    }

    #[inline(always)]
    fn scale(self, v: F32x16, n: F32x16) -> F32x16 {
        zip(v, n, |v, n| {
            v * f32::from_bits(((n as i32).wrapping_add(127) << 23) as u32)
        })
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn sum(self, v: F32x16) -> f32 {
        let mut x = v.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }

    #[inline(always)]
    fn max_lane(self, v: F32x16) -> f32 {
        let mut x = v.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = if x[i] > x[i + half] { x[i] } else { x[i + half] };
            }
        }
        x[0]
    }

    #[inline(always)]
    fn select_lt(self, a: F32x16, b: F32x16, then: F32x16, otherwise: F32x16) -> F32x16 {
        F32x16(std::array::from_fn(|i| {
            if a.0[i] < b.0[i] {
                then.0[i]
            } else {
                otherwise.0[i]
            }
        }))
    }

    #[inline(always)]
    fn any_gt(self, a: F32x16, b: F32x16) -> bool {
        a.0.iter().zip(b.0).fold(false, |any, (a, b)| any | (*a > b))
    }
}
