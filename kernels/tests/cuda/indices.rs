//! Indices written at once.

use ferrum_kernels::{
    Backend,
    cuda::{CudaIndices, Element},
};

use crate::twin::Twin;

/// Buffers of `lens` indices and one more, and for each other values.
fn buffers(twin: &Twin, lens: &[usize], seed: u32) -> Vec<(CudaIndices, Vec<u32>)> {
    let of_part = |(part, &len): (u32, &usize)| {
        let buffer = twin.gpu.alloc_indices(len + 1).expect("memory");
        let values = (0..len as u32).map(|i| (seed * 16 + part) << 20 | (i + 1));
        (buffer, values.collect())
    };
    (0..).zip(lens).map(of_part).collect()
}

fn write(twin: &Twin, buffers: &mut [(CudaIndices, Vec<u32>)]) {
    let mut writes: Vec<_> = buffers
        .iter_mut()
        .map(|(buffer, values)| (&**values, buffer))
        .collect();
    twin.gpu.write_all_indices(&mut writes).expect("room");
}

fn check(twin: &Twin, buffers: &[(CudaIndices, Vec<u32>)]) {
    for (buffer, values) in buffers {
        let mut got = vec![1; values.len() + 1];
        twin.gpu.read_indices_into(buffer, &mut got).expect("indices");
        assert_eq!(got[..values.len()], values[..]);
        assert_eq!(got[values.len()], 0, "what lies behind is as it was");
    }
}

#[test]
fn buffers_that_are_written_at_once_have_what_each_was_given() {
    let twin = Twin::new(Element::Bf16);
    let cases: [&[usize]; 6] = [
        &[3, 0, 1, 600, 33, 1, 0, 5],
        &[0, 0],
        &[],
        &[7; 21],
        // As much as goes at once, and more.
        &[100_000, 162_140, 4],
        &[1, 300_000, 2],
    ];
    for lens in cases {
        let mut buffers = buffers(&twin, lens, 1);
        write(&twin, &mut buffers);
        check(&twin, &buffers);
    }
}

#[test]
fn writes_that_nobody_waits_for_do_not_disturb_one_another() {
    let twin = Twin::new(Element::Bf16);
    // Several times what pinned memory has room for.
    let mut steps: Vec<_> = (0..120).map(|step| buffers(&twin, &[40_000, 7], step)).collect();
    for step in &mut steps {
        write(&twin, step);
    }
    for step in &steps {
        check(&twin, step);
    }
}

#[test]
fn a_buffer_without_room_is_refused() {
    let twin = Twin::new(Element::Bf16);
    let mut small = twin.gpu.alloc_indices(4).expect("memory");
    let refused = twin.gpu.write_all_indices(&mut [(&[1; 5], &mut small)]);
    assert!(refused.is_err(), "five indices in a buffer of four");
}
