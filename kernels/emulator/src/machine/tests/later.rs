//! Copies and stores that are waited for.

use super::*;
use crate::tensor_map::{TensorMap, swizzled};

#[test]
fn a_copy_is_there_when_its_group_is_waited_for_and_not_before() {
    let from = Words::new(&(100..164).collect::<Vec<_>>());
    let to = Words::new(&[0; 96]);
    let body =
        "ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mul.wide.u32 %rd3, %r1, 4; mov.u32 %r2, dynamic;
        add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3; shl.b32 %r3, %r1, 2; add.s32 %r2, %r2, %r3;
        cp.async.ca.shared.global [%r2], [%rd1], 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r2+128], [%rd1+128], 4, 2; cp.async.commit_group;
        ld.shared.u32 %r4, [%r2]; st.global.u32 [%rd2], %r4;
        cp.async.wait_group 1;
        ld.shared.u32 %r4, [%r2]; st.global.u32 [%rd2+128], %r4;
        cp.async.wait_group 0;
        ld.shared.u32 %r4, [%r2+128]; st.global.u32 [%rd2+256], %r4;";
    let kernel = Kernel {
        shared_bytes: 256,
        ..Kernel::new(body)
    };
    kernel.run(&[from.address, to.address]).expect("an end");
    let result = to.read();
    assert_eq!(result[..32], [u32::MAX; 32]);
    assert_eq!(result[32..64], (100..132).collect::<Vec<_>>());
    assert_eq!(result[64..], (132..164).collect::<Vec<_>>());
}

/// Two blocks exchange words: each stores to the other, which waits at its mbarrier.
const EXCHANGE: &str = "mov.u32 %r2, dynamic; mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, 1;
    setp.ne.s32 %p1, %r1, 0; @%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r2], 1; fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256;
    READY: barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
    mapa.shared::cluster.u32 %r5, %r2, %r4;
    shl.b32 %r6, %r1, 3; add.s32 %r6, %r6, 16; add.s32 %r7, %r6, %r5; add.s32 %r8, %r6, %r2;
    mov.u32 %r9, %ctaid.x; mad.lo.s32 %r9, %r9, 1000, %r1; mov.b32 %f1, %r9; mov.b32 %f2, %r1;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%r7], {%f1, %f2}, [%r5];";

#[test]
fn a_store_to_another_block_is_there_once_its_mbarrier_says_so() {
    let words = Words::new(&[0; 256]);
    let own = "ld.param.u64 %rd1, [a]; mov.u32 %r20, %ctaid.x; mad.lo.s32 %r20, %r20, 32, %r1;
        mul.wide.u32 %rd2, %r20, 8; add.s64 %rd1, %rd1, %rd2;";
    let wait = "{.reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%r2], 0; @p bra DONE; bra AGAIN; DONE:}";
    let end = "ld.shared.v2.u32 {%r10, %r11}, [%r8]; st.global.v2.u32 [%rd1], {%r10, %r11};
        barrier.cluster.arrive; barrier.cluster.wait;";
    for waits in [true, false] {
        let body = format!("{EXCHANGE} {own} {} {end}", if waits { wait } else { "" });
        let kernel = Kernel {
            blocks: 4,
            cluster: 2,
            shared_bytes: 512,
            ..Kernel::new(&body)
        };
        kernel.run(&[words.address]).expect("an end");
        let expected = (0..128).flat_map(|i: u32| match waits {
            true => [((i / 32) ^ 1) * 1000 + i % 32, i % 32],
            false => [u32::MAX; 2],
        });
        assert_eq!(words.read(), expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_store_to_another_block_needs_a_cluster() {
    let words = Words::new(&[0; 256]);
    let to_itself = EXCHANGE.replace("xor.b32 %r4, %r3, 1", "mov.u32 %r4, %r3");
    let kernel = Kernel {
        shared_bytes: 512,
        ..Kernel::new(&to_itself)
    };
    let fault = kernel.run(&[words.address]).expect_err("no cluster");
    assert!(
        fault
            .to_string()
            .contains("st.async in a block without a cluster"),
        "{fault}"
    );
}

#[test]
fn a_tile_comes_to_each_block_that_it_is_for() {
    let (rows, columns) = (16_usize, 128_usize);
    let matrix = Words::new(
        &(0..(rows * columns / 2) as u32)
            .map(|i| ((2 * i + 1) << 16) | (2 * i))
            .collect::<Vec<_>>(),
    );
    let map = TensorMap {
        address: matrix.address,
        rows: rows as u64,
        columns: columns as u64,
        row_bytes: 2 * columns as u64,
        tile_rows: 8,
    };
    let halves = map
        .encode()
        .into_iter()
        .flat_map(|word| [word as u32, (word >> 32) as u32]);
    let map = Words::new(&halves.collect::<Vec<_>>());
    let to = Words::new(&[0; 512]);
    let body = "ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r2, dynamic; mov.u32 %r3, %cluster_ctarank;
        setp.ne.s32 %p1, %r1, 0; @%p1 bra READY;
        mbarrier.init.shared::cta.b64 [%r2+2048], 1;
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+2048], 1024;
        READY: barrier.cluster.arrive; barrier.cluster.wait;
        setp.ne.s32 %p2, %r3, 1; or.pred %p2, %p2, %p1; @%p2 bra WAIT; mov.u16 %h1, 3; mov.u32 %r4, 64; mov.u32 %r5, 4;
        cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
            [%r2], [%rd1, {%r4, %r5}], [%r2+2048], %h1;
        WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2+2048], 0; @!%p3 bra WAIT;
        mad.lo.s32 %r6, %r3, 1024, 0; mul.wide.u32 %rd3, %r6, 1; add.s64 %rd2, %rd2, %rd3; mov.u32 %r7, 0;
        COPY: shl.b32 %r8, %r1, 2; add.s32 %r8, %r8, %r7; add.s32 %r9, %r8, %r2; ld.shared.u32 %r10, [%r9];
        cvt.u64.u32 %rd4, %r8; add.s64 %rd5, %rd2, %rd4; st.global.u32 [%rd5], %r10;
        add.s32 %r7, %r7, 128; setp.lt.u32 %p4, %r7, 1024; @%p4 bra COPY;
        barrier.cluster.arrive; barrier.cluster.wait;";
    let kernel = Kernel {
        blocks: 2,
        cluster: 2,
        shared_bytes: 4096,
        ..Kernel::new(body)
    };
    kernel.run(&[map.address, to.address]).expect("an end");
    let result = to.read();
    for block in 0..2 {
        for row in 0..8 {
            for pair in 0..32 {
                let value = result[block * 256 + swizzled(row * 128 + 4 * pair) / 4];
                let first = ((row + 4) * columns + 64 + 2 * pair) as u32;
                assert_eq!(value, ((first + 1) << 16) | first, "{block} {row} {pair}");
            }
        }
    }
}

#[test]
fn copies_are_done_when_the_mbarrier_that_counts_them_is() {
    let from = Words::new(&(500..628).collect::<Vec<_>>());
    let to = Words::new(&[0; 128]);
    let body =
        "ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mul.wide.u32 %rd3, %r1, 16; mov.u32 %r2, dynamic;
        add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3; shl.b32 %r3, %r1, 4; add.s32 %r3, %r2, %r3;
        setp.ne.s32 %p1, %r1, 0; @%p1 bra READY; mbarrier.init.shared::cta.b64 [%r2+1024], 32;
        READY: bar.sync 0;
        cp.async.cg.shared.global [%r3], [%rd1], 16;
        cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2+1024];
        WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2+1024], 0; @!%p3 bra WAIT;
        xor.b32 %r3, %r3, 240; ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3];
        st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};";
    let kernel = Kernel {
        shared_bytes: 2048,
        ..Kernel::new(body)
    };
    kernel.run(&[from.address, to.address]).expect("an end");
    let expected = (0..128).map(|i: u32| 500 + (i ^ 60));
    assert_eq!(to.read(), expected.collect::<Vec<_>>());
}
