//! Registers of a warp.

use crate::ptx::{Program, Reg, Wide};

/// Registers of one size, by place: a value of each lane.
#[derive(Default)]
pub(super) struct Bank<T> {
    values: Vec<[T; 32]>,
    /// Registers known to have one value for all lanes: addresses and counters of a warp mostly do, and need only be
    /// computed once.
    same: Vec<bool>,
}

/// All registers of a warp. A new warp may find another one's values there, as on a GPU.
pub(super) struct Registers {
    pub(super) words: Bank<u32>,
    pub(super) wides: Bank<u64>,
}

impl Registers {
    pub(super) fn new(program: &Program) -> Self {
        Self {
            words: Bank::new(program.words, &program.word_constants),
            wides: Bank::new(program.wides, &program.wide_constants),
        }
    }
}

/// A register's place in its bank.
pub(super) trait Place: Copy {
    fn index(self) -> usize;
}

impl Place for Reg {
    #[inline(always)]
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Place for Wide {
    #[inline(always)]
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl<T: Copy + Default + PartialEq> Bank<T> {
    /// Some registers, all 0, and constants behind them.
    pub(super) fn new(len: usize, constants: &[T]) -> Self {
        let mut values = vec![[T::default(); 32]; len];
        values.extend(constants.iter().map(|&value| [value; 32]));
        Self {
            same: vec![true; values.len()],
            values,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    #[inline(always)]
    pub(super) fn get(&self, from: impl Place) -> &[T; 32] {
        &self.values[from.index()]
    }

    /// The value of all lanes, if it is known to be one.
    #[inline(always)]
    pub(super) fn same(&self, from: impl Place) -> bool {
        self.same[from.index()]
    }

    /// The first lane's value.
    #[inline(always)]
    pub(super) fn first(&self, from: impl Place) -> T {
        self.values[from.index()][0]
    }

    #[inline(always)]
    pub(super) fn put(&mut self, to: impl Place, value: [T; 32], mask: u32) {
        self.same[to.index()] = false;
        let place = &mut self.values[to.index()];
        if mask == u32::MAX {
            *place = value;
        } else {
            for i in 0..32 {
                place[i] = if mask >> i & 1 == 1 { value[i] } else { place[i] };
            }
        }
    }

    /// One value for all lanes.
    #[inline(always)]
    pub(super) fn put_same(&mut self, to: impl Place, value: T) {
        self.same[to.index()] = true;
        self.values[to.index()] = [value; 32];
    }

    /// Whether what was just put is one value for all lanes.
    #[inline(always)]
    pub(super) fn know_same(&mut self, of: impl Place, same: bool) {
        self.same[of.index()] = same;
    }

    /// Looks whether what was just put for all lanes is one value.
    #[inline(always)]
    pub(super) fn look_if_same(&mut self, of: impl Place) {
        let values = &self.values[of.index()];
        let mut same = true;
        for value in values {
            same &= *value == values[0];
        }
        self.same[of.index()] = same;
    }

    #[inline(always)]
    pub(super) fn put_lane(&mut self, to: impl Place, lane: usize, value: T) {
        self.same[to.index()] = false;
        self.values[to.index()][lane] = value;
    }
}
