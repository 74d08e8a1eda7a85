//! Lanes, warps, blocks and memory.

use super::*;

#[test]
fn lanes_of_a_loop_end_when_their_own_count_does() {
    let words = Words::new(&[0; 40]);
    let body = format!(
        "{OWN_WORD} mov.u32 %r2, 0; mov.u32 %r3, 0;
        LOOP: setp.ge.u32 %p1, %r2, %r1; @%p1 bra DONE;
        and.b32 %r4, %r2, 1; setp.eq.s32 %p2, %r4, 0;
        @%p2 bra EVEN; add.s32 %r3, %r3, 100; bra.uni NEXT;
        EVEN: add.s32 %r3, %r3, %r2;
        NEXT: add.s32 %r2, %r2, 1; bra LOOP;
        DONE: st.global.u32 [%rd1], %r3;"
    );
    let kernel = Kernel {
        threads: 40,
        ..Kernel::new(&body)
    };
    kernel.run(&[words.address]).expect("an end");
    let expected = |thread: u32| (0..thread).map(|i| if i % 2 == 0 { i } else { 100 }).sum::<u32>();
    assert_eq!(words.read(), (0..40).map(expected).collect::<Vec<_>>());
}

#[test]
fn a_block_sums_over_its_warps_between_barriers() {
    let words = Words::new(&[0; 100]);
    let body = format!(
        "{OWN_WORD} .shared .align 4 .b8 sums[400];
        mov.u32 %r2, sums; shl.b32 %r3, %r1, 2; add.s32 %r2, %r2, %r3;
        mul.lo.s32 %r4, %r1, %r1; st.shared.u32 [%r2], %r4;
        bar.sync 0;
        mov.u32 %r5, 0; mov.u32 %r6, 0;
        LOOP: ld.shared.u32 %r7, [%r6]; add.s32 %r5, %r5, %r7; add.s32 %r6, %r6, 4;
        setp.lt.u32 %p1, %r6, 400; @%p1 bra LOOP;
        st.global.u32 [%rd1], %r5;"
    );
    let kernel = Kernel {
        threads: 100,
        ..Kernel::new(&body)
    };
    kernel.run(&[words.address]).expect("an end");
    assert_eq!(words.read(), [(0..100).map(|i| i * i).sum::<u32>(); 100]);
}

#[test]
fn shuffles_add_up_the_lanes_of_each_half() {
    let words = Words::new(&(0..32).map(|i| i * 7 + 3).collect::<Vec<_>>());
    let mut body = format!("{OWN_WORD} ld.global.u32 %r2, [%rd1];");
    for distance in [8, 4, 2, 1] {
        // The mask 0x10 in c's upper half keeps halves of 16 lanes apart.
        body += &format!("shfl.sync.bfly.b32 %r3|%p1, %r2, {distance}, 4127, -1; add.s32 %r2, %r2, %r3;");
    }
    body += "shfl.sync.up.b32 %r4|%p2, %r1, 3, 0, -1; @%p2 add.s32 %r2, %r2, %r4; st.global.u32 [%rd1], %r2;";
    Kernel::new(&body).run(&[words.address]).expect("an end");
    let half = |lane: u32| {
        (lane / 16 * 16..lane / 16 * 16 + 16)
            .map(|i| i * 7 + 3)
            .sum::<u32>()
    };
    let expected = |lane: u32| half(lane) + lane.saturating_sub(3) * u32::from(lane >= 3);
    assert_eq!(words.read(), (0..32).map(expected).collect::<Vec<_>>());
}

#[test]
fn lanes_that_took_different_ways_meet_at_a_vote() {
    let words = Words::new(&[0; 32]);
    let body = format!(
        "{OWN_WORD} setp.lt.u32 %p1, %r1, 5; @%p1 bra LOW;
        setp.eq.u32 %p2, %r1, 31; @%p2 ret; mov.u32 %r2, 2; bra MEET;
        LOW: mov.u32 %r2, 1;
        MEET: setp.eq.s32 %p3, %r2, 1; vote.sync.ballot.b32 %r3, %p3, -1; st.global.u32 [%rd1], %r3;"
    );
    Kernel::new(&body).run(&[words.address]).expect("an end");
    let mut expected = [0b11111; 32];
    expected[31] = 0;
    assert_eq!(words.read(), expected);
}

#[test]
fn an_access_outside_of_all_allocations_names_its_place() {
    let words = Words::new(&[0; 32]);
    let body = format!("{OWN_WORD} add.s64 %rd1, %rd1, 16; st.global.u32 [%rd1], %r1;");
    let fault = Kernel::new(&body).run(&[words.address]).expect_err("a fault");
    assert_eq!(fault.thread, 28);
    let address = format!("{:#x}", words.address + 128);
    assert!(fault.what.contains(&address), "{fault}");
}

#[test]
fn an_access_that_is_not_aligned_is_a_fault() {
    let words = Words::new(&[0; 32]);
    for (offset, load) in [
        (2, "ld.global.u32 %r2"),
        (8, "ld.global.v4.u32 {%r2,%r3,%r4,%r5}"),
    ] {
        let body = format!("ld.param.u64 %rd1, [a]; {load}, [%rd1+{offset}];");
        let fault = Kernel::new(&body).run(&[words.address]).expect_err("a fault");
        assert!(fault.what.contains("not aligned"), "{fault}");
    }
}

#[test]
fn a_kernel_waits_for_memory_that_another_thread_s_kernel_writes() {
    let words = Words::new(&[0; 2]);
    let waits = "ld.param.u64 %rd1, [a]; setp.ne.s32 %p2, %r1, 0; @%p2 ret;
        AGAIN: ld.volatile.global.u32 %r2, [%rd1]; setp.ne.s32 %p1, %r2, 77; @%p1 bra AGAIN;
        st.release.sys.global.u32 [%rd1+4], 78;";
    let writes =
        "ld.param.u64 %rd1, [a]; setp.ne.s32 %p2, %r1, 0; @%p2 ret; st.volatile.global.u32 [%rd1], 77;
        AGAIN: ld.acquire.sys.global.u32 %r2, [%rd1+4]; setp.ne.s32 %p1, %r2, 78; @%p1 bra AGAIN;";
    std::thread::scope(|scope| {
        let first = scope.spawn(|| Kernel::new(waits).run(&[words.address]));
        Kernel::new(writes).run(&[words.address]).expect("an end");
        first.join().expect("no panic").expect("an end");
    });
    assert_eq!(words.read(), [77, 78]);
}

#[test]
fn a_block_waits_for_one_that_begins_after_it() {
    let words = Words::new(&[0; 1]);
    let body = "ld.param.u64 %rd1, [a]; mov.u32 %r2, %ctaid.x; setp.eq.s32 %p1, %r2, 2; @%p1 bra WRITE;
        AGAIN: ld.volatile.global.u32 %r3, [%rd1]; setp.eq.s32 %p2, %r3, 0; @%p2 bra AGAIN; ret;
        WRITE: atom.global.inc.u32 %r4, [%rd1], 100;";
    let kernel = Kernel {
        blocks: 3,
        ..Kernel::new(body)
    };
    kernel.run(&[words.address]).expect("an end");
    assert_eq!(words.read(), [32]);
}

#[test]
fn threads_that_wait_for_each_other_in_vain_are_a_fault() {
    let body = "mov.u32 %r2, dynamic; setp.eq.s32 %p1, %r1, 3; @%p1 ret; bar.sync 1, 64;";
    let fault = Kernel::new(body).run(&[]).expect_err("a fault");
    assert!(fault.what.contains("barriers"), "{fault}");
    let body = "mov.u32 %r2, dynamic; setp.ne.s32 %p1, %r1, 0; @%p1 ret; mbarrier.init.shared::cta.b64 [%r2], 2;
        {.reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%r2], 0; @p bra DONE; bra AGAIN; DONE:}";
    let kernel = Kernel {
        shared_bytes: 64,
        ..Kernel::new(body)
    };
    let fault = kernel.run(&[]).expect_err("a fault");
    assert!(fault.what.contains("mbarrier"), "{fault}");
}

#[test]
fn arithmetic_is_as_documented() {
    let cases: [(&str, u32); 16] = [
        ("shl.b32 %r2, 1, 33;", 0),
        ("shr.s32 %r2, -8, 40;", u32::MAX),
        ("prmt.b32 %r2, 0x33221100, 0x77665544, 0x7250;", 0x7722_5500),
        ("prmt.b32 %r2, 0x33221180, 0, 0x8888;", u32::MAX),
        ("bfi.b32 %r2, 0xff, 0x12345678, 8, 4;", 0x1234_5f78),
        ("mul.hi.s32 %r2, -3, 5;", u32::MAX),
        ("bfind.shiftamt.u32 %r2, 0x10;", 27),
        (
            "min.f32 %f1, 0f7FC00000, 0f3F800000; mov.b32 %r2, %f1;",
            0x3f80_0000,
        ),
        (
            "setp.ltu.f32 %p1, 0f7FC00000, 0f3F800000; selp.u32 %r2, 1, 0, %p1;",
            1,
        ),
        (
            "setp.lt.f32 %p1, 0f7FC00000, 0f3F800000; selp.u32 %r2, 1, 0, %p1;",
            0,
        ),
        ("cvt.rn.f16x2.f32 %r2, 0f3F800000, 0fC0000000;", 0x3c00_c000),
        ("cvt.rn.bf16x2.f32 %r2, 0f3F800000, 0f3F808000;", 0x3f80_3f80),
        (
            "fma.rn.f16x2 %r2, 0x3c003c01, 0x40004000, 0x3c00bc00;",
            0x4200_3c02,
        ),
        ("cvt.rzi.s32.f32 %r2, 0fC0200000;", (-2_i32) as u32),
        (
            "mov.b64 %rd3, {%r1, %r1}; mov.b64 {%r3, %r2}, %rd3; add.s32 %r2, %r2, 5;",
            5,
        ),
        (
            "lop3.b32 %r2, 0xff00ff00, 0xf0f0f0f0, 0xcccccccc, 0x96;",
            0xff00_ff00 ^ 0xf0f0_f0f0 ^ 0xcccc_cccc,
        ),
    ];
    for (body, expected) in cases {
        let words = Words::new(&[0]);
        let body = format!("{OWN_WORD} setp.ne.s32 %p9, %r1, 0; @%p9 ret; {body} st.global.u32 [%rd1], %r2;");
        Kernel::new(&body).run(&[words.address]).expect("an end");
        assert_eq!(words.read(), [expected], "{body}");
    }
}
