//! Products of tensor cores against plain ones, each number at its place.

use half::{bf16, f16};

use super::*;
use crate::tensor_map::swizzled;

/// A number's 16 bits.
type ToBits = fn(f32) -> u16;

/// Small whole numbers, which every type has exactly.
fn matrix(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
    let mut random = random(seed);
    (0..rows * columns)
        .map(|_| (random() % 17) as f32 - 8.0)
        .collect()
}

/// `a (m, 16) . b (n, 16)^T`.
fn product(a: &[f32], b: &[f32]) -> Vec<f32> {
    let rows = a.chunks(16);
    rows.flat_map(|a| {
        b.chunks(16)
            .map(move |b| a.iter().zip(b).map(|(a, b)| a * b).sum())
    })
    .collect()
}

fn pairs(values: &[f32], to: ToBits) -> Vec<u32> {
    let pairs = values.chunks(2);
    pairs
        .map(|pair| u32::from(to(pair[1])) << 16 | u32::from(to(pair[0])))
        .collect()
}

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().copied().map(f32::from_bits).collect()
}

#[test]
fn a_warp_s_product_has_every_number_at_its_place() {
    let types: [(&str, ToBits); 2] = [
        ("f16", |x| f16::from_f32(x).to_bits()),
        ("bf16", |x| bf16::from_f32(x).to_bits()),
    ];
    for (name, to) in types {
        let (a, b) = (matrix(16, 16, 1), matrix(8, 16, 2));
        let (wa, wb) = (Words::new(&pairs(&a, to)), Words::new(&pairs(&b, to)));
        let wc = Words::new(&[0; 128]);
        // g = lane / 4 is a row of a and a column of b; t = lane % 4 a pair of each eight along k.
        let body = format!(
            "ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];
            shl.b32 %r2, %r1, 0; shr.u32 %r3, %r1, 2; and.b32 %r4, %r1, 3;
            shl.b32 %r5, %r3, 5; shl.b32 %r6, %r4, 2; add.s32 %r7, %r5, %r6; cvt.u64.u32 %rd4, %r7;
            add.s64 %rd5, %rd1, %rd4; add.s64 %rd6, %rd2, %rd4;
            ld.global.u32 %r10, [%rd5]; ld.global.u32 %r11, [%rd5+256];
            ld.global.u32 %r12, [%rd5+16]; ld.global.u32 %r13, [%rd5+272];
            ld.global.u32 %r14, [%rd6]; ld.global.u32 %r15, [%rd6+16];
            cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f3F800000; mov.f32 %f4, %f2;
            mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32
                {{%f1,%f2,%f3,%f4}}, {{%r10,%r11,%r12,%r13}}, {{%r14,%r15}}, {{%f1,%f2,%f3,%f4}};
            shl.b32 %r8, %r3, 5; shl.b32 %r9, %r4, 3; add.s32 %r8, %r8, %r9; cvt.u64.u32 %rd7, %r8;
            add.s64 %rd7, %rd3, %rd7; st.global.v2.f32 [%rd7], {{%f1, %f2}}; st.global.v2.f32 [%rd7+256], {{%f3, %f4}};"
        );
        Kernel::new(&body)
            .run(&[wa.address, wb.address, wc.address])
            .expect("an end");
        let mut expected = product(&a, &b);
        for (i, value) in expected.iter_mut().enumerate() {
            let (row, column) = (i / 8, i % 8);
            *value += match (row / 8, column % 2) {
                (0, 0) => (row * 4 + column / 2) as f32,
                (1, 0) => 1.0,
                _ => 0.0,
            };
        }
        assert_eq!(floats(&wc.read()), expected, "{name}");
    }
}

#[test]
fn a_product_of_four_warps_reads_swizzled_rows_of_128_bytes() {
    let (a, b) = (matrix(64, 16, 3), matrix(16, 16, 4));
    // Both in rows of 128 bytes, at the third chunk of 32 bytes, eight rows and 1024 bytes apart.
    let mut shared = vec![0_u32; 4096];
    let mut place = |first: usize, values: &[f32]| {
        let words = pairs(values, |x| f16::from_f32(x).to_bits());
        for (i, word) in words.into_iter().enumerate() {
            let (row, pair) = (i / 8, i % 8);
            shared[swizzled(first + 128 * row + 64 + 4 * pair) / 4] = word;
        }
    };
    place(0, &a);
    place(8192, &b);
    let (from, to) = (Words::new(&shared), Words::new(&[0; 64 * 16]));
    let body = "ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r2, dynamic; mov.u32 %r3, %r1;
        LOAD: mul.wide.u32 %rd3, %r3, 4; add.s64 %rd3, %rd1, %rd3; ld.global.u32 %r4, [%rd3];
        shl.b32 %r5, %r3, 2; add.s32 %r5, %r5, %r2; st.shared.u32 [%r5], %r4;
        add.s32 %r3, %r3, 128; setp.lt.u32 %p1, %r3, 4096; @%p1 bra LOAD; bar.sync 0;
        mov.u32 %r6, 64; mov.u32 %r7, 8256;
        shr.u32 %r6, %r6, 4; shr.u32 %r7, %r7, 4; cvt.u64.u32 %rd4, %r6; cvt.u64.u32 %rd5, %r7;
        or.b64 %rd4, %rd4, 4611686293305360384; or.b64 %rd5, %rd5, 4611686293305360384;
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
        mov.f32 %f5, %f1; mov.f32 %f6, %f1; mov.f32 %f7, %f1; mov.f32 %f8, %f1;
        setp.ne.s32 %p2, %r6, 0; wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16
            {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}, %rd4, %rd5, %p2, 1, 1, 0, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
        shr.u32 %r8, %r1, 5; and.b32 %r9, %r1, 31; shr.u32 %r10, %r9, 2; and.b32 %r11, %r9, 3;
        shl.b32 %r12, %r8, 10; shl.b32 %r13, %r10, 6; shl.b32 %r14, %r11, 3;
        add.s32 %r15, %r12, %r13; add.s32 %r15, %r15, %r14; cvt.u64.u32 %rd6, %r15; add.s64 %rd6, %rd2, %rd6;
        st.global.v2.f32 [%rd6], {%f1, %f2}; st.global.v2.f32 [%rd6+512], {%f3, %f4};
        st.global.v2.f32 [%rd6+32], {%f5, %f6}; st.global.v2.f32 [%rd6+544], {%f7, %f8};";
    let kernel = Kernel {
        threads: 128,
        shared_bytes: 16384,
        ..Kernel::new(body)
    };
    kernel.run(&[from.address, to.address]).expect("an end");
    let expected: Vec<f32> = product(&a, &b).into_iter().map(|value| value + 1.0).collect();
    assert_eq!(floats(&to.read()), expected);
}
