//! Kernels of a few lines, against what plain code makes of the same numbers.

mod lanes;
mod later;
mod products;

use super::{Fault, Launch, run};
use crate::{memory, ptx::Module};

/// Words in device memory.
struct Words {
    address: u64,
    len: usize,
}

impl Words {
    fn new(values: &[u32]) -> Self {
        let address = memory::allocate(4 * values.len()).expect("memory");
        for (i, &value) in values.iter().enumerate() {
            let place = std::ptr::with_exposed_provenance_mut::<u32>(address as usize + 4 * i);
            // SAFETY: within the allocation.
            unsafe { place.write_volatile(value) };
        }
        Self {
            address,
            len: values.len(),
        }
    }

    fn read(&self) -> Vec<u32> {
        let places =
            (0..self.len).map(|i| std::ptr::with_exposed_provenance::<u32>(self.address as usize + 4 * i));
        // SAFETY: within the allocation.
        places.map(|place| unsafe { place.read_volatile() }).collect()
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        memory::release(self.address);
    }
}

/// A launch of the kernel with this body, whose parameters `a`, `b`, ... are 64-bit numbers.
struct Kernel<'a> {
    body: &'a str,
    blocks: u32,
    threads: u32,
    cluster: u32,
    shared_bytes: u32,
}

impl<'a> Kernel<'a> {
    fn new(body: &'a str) -> Self {
        Self {
            body,
            blocks: 1,
            threads: 32,
            cluster: 1,
            shared_bytes: 0,
        }
    }

    fn run(&self, arguments: &[u64]) -> Result<(), Fault> {
        let names = ["a", "b", "c", "d"];
        let parameters: Vec<String> = names[..arguments.len()]
            .iter()
            .map(|name| format!(".param .u64 {name}"))
            .collect();
        let text = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 dynamic[];\n\
             .visible .entry kernel({})\n{{\n.reg .pred %p<20>;\n.reg .b16 %h<20>;\n.reg .b32 %r<90>;\n\
             .reg .f32 %f<90>;\n.reg .b64 %rd<20>;\nmov.u32 %r1, %tid.x;\n{}\nret;\n}}\n",
            parameters.join(", "),
            self.body
        );
        let module = Module::parse(&text).expect("a module");
        let bytes: Vec<u8> = arguments
            .iter()
            .flat_map(|argument| argument.to_le_bytes())
            .collect();
        run(
            &module.kernels[0],
            &Launch {
                grid: [self.blocks, 1, 1],
                block: [self.threads, 1, 1],
                cluster: self.cluster,
                shared_bytes: self.shared_bytes,
                arguments: &bytes,
            },
        )
    }
}

/// `%rd1`: the address of the thread's word of parameter a.
const OWN_WORD: &str = "ld.param.u64 %rd1, [a]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;";

/// Numbers without a pattern.
fn random(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    }
}

#[test]
fn speed() {
    use crate::matrix::*;
    let a = [[0x3c003c00; 32]; 4];
    let b = [[0x3c003c00; 32]; 2];
    let mut c = [[0; 32]; 4];
    let t = std::time::Instant::now();
    for _ in 0..1_000_000 {
        c = mma_16_8_16(Half::F16, &a, &b, &c);
    }
    println!("mma f16 {} GMAC/s", 2048e6 / t.elapsed().as_nanos() as f64);
    let t = std::time::Instant::now();
    for _ in 0..1_000_000 {
        c = mma_16_8_16(Half::Bf16, &a, &b, &c);
    }
    println!("mma bf16 {} GMAC/s", 2048e6 / t.elapsed().as_nanos() as f64);
    let shared = vec![0u8; 65536];
    let mut sums = vec![[0; 32]; 128];
    let t = std::time::Instant::now();
    for _ in 0..20_000 {
        wgmma(
            Half::F16,
            (Left::Shared(4611686293305360384), 4611686293305360384),
            (1, true),
            &shared,
            &mut sums,
        )
        .unwrap();
    }
    println!(
        "wgmma f16 {} GMAC/s",
        65536. * 20000. / t.elapsed().as_nanos() as f64
    );
    for (name, body) in [
        ("fma", "fma.rn.f32 %f1, %f2, %f3, %f1;"),
        ("add", "add.s32 %r5, %r6, %r7;"),
        ("add64", "add.s64 %rd5, %rd6, %rd7;"),
        ("ld.shared", "ld.shared.u32 %r6, [%r8];"),
        ("ld.shared.v4", "ld.shared.v4.u32 {%r6,%r9,%r10,%r11}, [%r12];"),
        ("ld.global", "ld.global.u32 %r6, [%rd1];"),
        ("st.global", "st.global.u32 [%rd1], %r6;"),
        ("ex2", "ex2.approx.ftz.f32 %f1, %f2;"),
        ("cvt", "cvt.rn.f16.f32 %h1, %f2;"),
        ("cvtf", "cvt.f32.f16 %f3, %h1;"),
        ("fma2", "fma.rn.f16x2 %r5, %r6, %r7, %r5;"),
        ("prmt", "prmt.b32 %r5, %r6, %r7, 0x7250;"),
        ("max", "max.f32 %f1, %f2, %f3;"),
        ("setp", "setp.lt.s32 %p1, %r2, %r3;"),
        ("shfl", "shfl.sync.bfly.b32 %r5|%p1, %r6, 4, 31, -1;"),
        ("lop3", "lop3.b32 %r5, %r6, %r7, %r5, 0x6a;"),
        ("shl", "shl.b32 %r5, %r6, 3;"),
        ("mul", "mul.lo.s32 %r5, %r6, 31;"),
        ("div", "div.s32 %r5, %r6, 31;"),
        (
            "mma",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
        ),
    ] {
        let words = Words::new(&[0; 128]);
        let body = format!(
            "{OWN_WORD} shl.b32 %r8, %r1, 2; shl.b32 %r12, %r1, 4; mov.u32 %r20, 0; LOOP: {} add.s32 %r20, %r20, 1; setp.lt.s32 %p3, %r20, 10000; @%p3 bra LOOP;",
            body.repeat(50)
        );
        let t = std::time::Instant::now();
        Kernel {
            shared_bytes: 1024,
            ..Kernel::new(&body)
        }
        .run(&[words.address])
        .unwrap();
        println!("{name} {} ns", t.elapsed().as_nanos() as f64 / 500_000.);
    }
}
