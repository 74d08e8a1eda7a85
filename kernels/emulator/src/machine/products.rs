//! Products of four warps, done when they are waited for.

use std::collections::VecDeque;

use super::{
    cluster::Cluster,
    warp::{BoxedTrap, Trap, Warp},
};
use crate::{
    matrix::{self, Half, Lanes},
    ptx::{Add, Left, Reg, Wgmma},
};

/// A warp's products that are on their way.
#[derive(Default)]
pub(super) struct Products {
    open: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
}

struct Product {
    half: Half,
    sums: Vec<Reg>,
    a: Side,
    b: u64,
    add: bool,
}

enum Side {
    Registers(Box<[Lanes; 4]>),
    Shared(u64),
}

impl Products {
    pub(super) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }
}

impl Warp {
    pub(super) fn begin_product(&mut self, wgmma: &Wgmma, mask: u32) {
        let first = mask.trailing_zeros() as usize;
        let a = match wgmma.a {
            Left::Registers(registers) => Side::Registers(Box::new(registers.map(|reg| *self.word(reg)))),
            Left::Shared(descriptor) => Side::Shared(self.wide(descriptor)[first]),
        };
        let add = match wgmma.add {
            Add::Always(add) => add,
            Add::If(pred) => self.preds[pred.0 as usize] >> first & 1 == 1,
        };
        let b = self.wide(wgmma.b)[first];
        self.products.open.push(Product {
            half: wgmma.half,
            sums: wgmma.sums.clone(),
            a,
            b,
            add,
        });
    }

    /// Does the oldest groups of products until no more than `left` are left.
    pub(super) fn finish_products(&mut self, cluster: &Cluster, left: usize) -> Result<(), BoxedTrap> {
        while self.products.groups.len() > left {
            for product in self.products.groups.pop_front().unwrap_or_default() {
                let mut sums: Vec<Lanes> = product.sums.iter().map(|&reg| *self.word(reg)).collect();
                let a = match &product.a {
                    Side::Registers(registers) => matrix::Left::Registers(registers),
                    Side::Shared(descriptor) => matrix::Left::Shared(*descriptor),
                };
                let shared = cluster.shared[self.block].bytes();
                let sides = (a, product.b);
                let done = matrix::wgmma(
                    product.half,
                    sides,
                    (self.place % 4, product.add),
                    shared,
                    &mut sums,
                );
                if done.is_none() {
                    let what =
                        "a descriptor of wgmma that is not understood, or of what is not in shared memory";
                    return Err(Trap::new(0, what.to_owned()));
                }
                for (&reg, sum) in product.sums.iter().zip(sums) {
                    self.put(reg, sum, u32::MAX);
                }
            }
        }
        Ok(())
    }
}
