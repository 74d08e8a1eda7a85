//! Which instructions this processor has.

#![allow(unsafe_code)]

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
    /// The same with the int8 tiles of AMX, which multiply quantized weights with several rows.
    Amx,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512 VNNI",
            Self::Amx => "AVX-512 VNNI with AMX",
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
        if amx::usable() { Isa::Amx } else { Isa::Avx512 }
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

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::{
        arch::x86_64::{__cpuid, __cpuid_count, _xgetbv},
        sync::OnceLock,
    };

    /// Whether this process may use int8 tiles: the processor has them, the system saves them when it switches
    /// threads, and permits them. Asked once; what is permitted is so for all threads, those to come as well.
    pub(super) fn usable() -> bool {
        static USABLE: OnceLock<bool> = OnceLock::new();
        // SAFETY: whoever asks has found AVX-512, which nobody finds without XGETBV.
        *USABLE.get_or_init(|| present() && unsafe { saved() } && permitted())
    }

    fn present() -> bool {
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let flags = if __cpuid(0).eax >= 7 {
            __cpuid_count(7, 0).edx
        } else {
            0
        };
        flags & (TILE | INT8) == TILE | INT8
    }

    #[target_feature(enable = "xsave")]
    fn saved() -> bool {
        const CONFIG_AND_DATA: u64 = 0b11 << 17;
        // SAFETY: register 0 is there wherever the instruction is.
        let saved = unsafe { _xgetbv(0) };
        saved & CONFIG_AND_DATA == CONFIG_AND_DATA
    }

    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and changes nothing but what this process may use.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }

    /// Other systems have ways of their own, none of which was tried.
    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }
}
