use std::{sync::mpsc, thread, time::Duration};

use super::*;
use crate::memory;

const RANKS: usize = 3;

fn memory_of(values: &[f32]) -> u64 {
    let address = memory::allocate(values.len() * 4).expect("memory");
    Element::F32.write(address, values).expect("room");
    address
}

fn values_at(address: u64) -> Vec<f32> {
    let mut values = Vec::new();
    Element::F32
        .read(address, 2, &mut values)
        .expect("allocated memory");
    assert!(memory::release(address));
    values
}

/// What each rank has after all have met with `act`.
fn meet(act: Act) -> Vec<Vec<f32>> {
    let group = Group::new(RANKS);
    let addresses = [1.0, 2.0, 4.0].map(|x| memory_of(&[x, 10.0 * x]));
    thread::scope(|scope| {
        for (rank, &address) in addresses.iter().enumerate() {
            let (group, len, element) = (&group, 2, Element::F32);
            let part = Part {
                from: address,
                to: address,
                len,
                element,
                act,
            };
            scope.spawn(move || assert_eq!(group.meet(rank, part), Ok(())));
        }
    });
    addresses.map(values_at).to_vec()
}

#[test]
fn every_rank_has_the_sum_or_what_the_root_had() {
    assert_eq!(meet(Act::AllReduce), vec![vec![7.0, 70.0]; RANKS]);
    assert_eq!(meet(Act::Broadcast { root: 1 }), vec![vec![2.0, 20.0]; RANKS]);
}

#[test]
fn messages_arrive_in_order_and_an_abort_ends_a_wait() {
    let group = Group::new(RANKS);
    thread::scope(|scope| {
        scope.spawn(|| (0..5).for_each(|i| group.send(1, 0, vec![i as f32])));
        for i in 0..5 {
            assert_eq!(group.receive(0, 1), Some(vec![i as f32]));
        }
        let (done, received) = mpsc::channel();
        let group = &group;
        scope.spawn(move || done.send(group.receive(0, 2)));
        assert!(received.recv_timeout(Duration::from_millis(50)).is_err());
        group.abort(0);
        assert_eq!(received.recv_timeout(Duration::from_secs(20)), Ok(None));
    });
}
