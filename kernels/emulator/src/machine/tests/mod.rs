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
