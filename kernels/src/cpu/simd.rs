//! Which instructions this processor has.

use std::fmt;

/// Instruction sets with kernels of their own, from the least to the most capable.
///
/// Products with weights have the same bits on all of them: the same operations in the same order. So have the
/// other operations on AVX2 and AVX-512; the portable one lacks a fused multiply-add on some processors. On any
/// one of them a row has the same bits whatever its company.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Rust without intrinsics.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512 VNNI",
        })
    }
}

/// The best instruction set of this processor.
#[cfg(target_arch = "x86_64")]
pub fn detect() -> Isa {
    use std::arch::is_x86_feature_detected as has;

    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    if avx2 && avx512 && has!("avx512vnni") {
        Isa::Avx512
    } else if avx2 {
        Isa::Avx2
    } else {
        Isa::Portable
    }
}

/// The best instruction set of this processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn detect() -> Isa {
    Isa::Portable
}
