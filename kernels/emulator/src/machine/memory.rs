//! Loads, stores and atomic operations.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Run,
    access::{Access, bytes_of, read, words_of, write},
    cluster::Cluster,
    longs::WideLanes,
    warp::{BoxedTrap, Warp, lanes_of},
};
use crate::{
    matrix::Lanes,
    ptx::{Address, Atomic, Base, Items, Reg, Space, Wide},
};

impl Items {
    fn bytes(&self) -> usize {
        usize::from(self.size) * usize::from(self.count)
    }
}

/// What one register gets of loaded bytes.
#[inline(always)]
fn part(data: &[u32; 4], items: &Items, i: usize) -> u64 {
    let bits = 8 * u32::from(items.size);
    let unused = 64 - bits;
    let data = u128::from_le_bytes(bytes_of(data));
    let part = (data >> (bits * i as u32)) as u64 & (u64::MAX >> unused);
    // Registers of 16 bits have no upper half.
    if items.signed && (items.wide || items.size != 2) {
        ((part << unused) as i64 >> unused) as u64
    } else {
        part
    }
}

/// A place as a pointer.
#[inline(always)]
fn at<T>(place: u64) -> *mut T {
    ptr::with_exposed_provenance_mut(place as usize)
}

impl Warp {
    #[inline(always)]
    pub(super) fn load(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        (items, volatile): (&Items, bool),
    ) -> Result<(), BoxedTrap> {
        let access = Access {
            space,
            bytes: items.bytes(),
            mask,
        };
        let mut places = self.addresses(address);
        if !volatile && mask == u32::MAX && self.is_same(address) {
            // One load for all lanes.
            let access = Access { mask: 1, ..access };
            self.locate(run, cluster, (access, &mut places))?;
            self.load_same(places[0], items);
            return Ok(());
        }
        self.locate(run, cluster, (access, &mut places))?;
        match (items.size, items.wide, items.count) {
            (4, false, 1) if !volatile => self.load_row(&places, items, mask),
            (4, false, 1) => self.load_words::<1>(&places, items, mask),
            (4, false, 2) => self.load_words::<2>(&places, items, mask),
            (4, false, _) => self.load_words::<4>(&places, items, mask),
            (2, false, 1) if !items.signed => {
                let register = Reg(items.registers[0]);
                for lane in lanes_of(mask) {
                    // SAFETY: two bytes are there, and aligned, as was just seen.
                    let value = unsafe { at::<u16>(places[lane]).read_volatile() };
                    self.words.put_lane(register, lane, value.into());
                }
            }
            _ => self.load_others(&places, items, mask),
        }
        Ok(())
    }

    /// Whether an address is known to be one for all lanes.
    #[inline(always)]
    fn is_same(&self, address: &Address) -> bool {
        match address.base {
            Base::None => true,
            Base::Word(reg) => self.words.same(reg),
            Base::Wide(wide) => self.wides.same(wide),
        }
    }

    /// Loads what is at one place for all lanes.
    #[inline(always)]
    fn load_same(&mut self, place: u64, items: &Items) {
        // SAFETY: the caller has seen that as many bytes are there, and aligned.
        let data = unsafe { read(at(place), items.bytes()) };
        if items.size == 4 && !items.wide {
            for i in 0..usize::from(items.count) {
                self.words.put_same(Reg(items.registers[i & 3]), data[i & 3]);
            }
            return;
        }
        for i in 0..usize::from(items.count) {
            let value = part(&data, items, i);
            match items.wide {
                true => self.wides.put_same(Wide(items.registers[i & 3]), value),
                false => self.words.put_same(Reg(items.registers[i & 3]), value as u32),
            }
        }
    }

    /// Loads a word of each lane: often one for all, or one beside the other.
    #[inline(always)]
    fn load_row(&mut self, places: &WideLanes, items: &Items, mask: u32) {
        let first = places[0];
        let (mut same, mut row) = (0, 0);
        for (i, &place) in places.iter().enumerate() {
            same |= place ^ first;
            row |= place ^ first.wrapping_add(4 * i as u64);
        }
        // SAFETY: the caller has seen that the words of all lanes of the mask are there, and aligned.
        let loaded = unsafe {
            if same == 0 {
                let value = at::<u32>(first).read_volatile();
                if mask == u32::MAX {
                    return self.words.put_same(Reg(items.registers[0]), value);
                }
                [value; 32]
            } else if row == 0 && mask == u32::MAX {
                at::<Lanes>(first).read_unaligned()
            } else {
                return self.load_words::<1>(places, items, mask);
            }
        };
        self.put(Reg(items.registers[0]), loaded, mask);
    }

    /// Loads some words of each lane of a mask, from places where they are.
    #[inline(always)]
    fn load_words<const COUNT: usize>(&mut self, places: &WideLanes, items: &Items, mask: u32) {
        let mut loaded = [[0; 32]; COUNT];
        if mask == u32::MAX {
            for lane in 0..32 {
                // SAFETY: the caller has seen that as many bytes are there, and aligned.
                let data = unsafe { read(at(places[lane]), 4 * COUNT) };
                for i in 0..COUNT {
                    loaded[i][lane] = data[i];
                }
            }
        } else {
            for lane in lanes_of(mask) {
                // SAFETY: the caller has seen that as many bytes are there, and aligned.
                let data = unsafe { read(at(places[lane]), 4 * COUNT) };
                for i in 0..COUNT {
                    loaded[i][lane] = data[i];
                }
            }
        }
        for (loaded, &register) in loaded.iter().zip(&items.registers) {
            self.put(Reg(register), *loaded, mask);
        }
    }

    /// Loads what is not words to words.
    fn load_others(&mut self, places: &WideLanes, items: &Items, mask: u32) {
        for lane in lanes_of(mask) {
            // SAFETY: the caller has seen that as many bytes are there, and aligned.
            let data = unsafe { read(at(places[lane]), items.bytes()) };
            for (i, &register) in items.registers[..items.count.into()].iter().enumerate() {
                let value = part(&data, items, i);
                match items.wide {
                    true => self.wides.put_lane(Wide(register), lane, value),
                    false => self.words.put_lane(Reg(register), lane, value as u32),
                }
            }
        }
    }

    /// What a lane stores.
    #[inline(always)]
    pub(super) fn stored(&self, items: &Items, lane: usize) -> [u32; 4] {
        if items.size == 4 && !items.wide {
            let mut data = [0; 4];
            for (word, &register) in data.iter_mut().zip(&items.registers).take(items.count.into()) {
                *word = self.word(Reg(register))[lane];
            }
            return data;
        }
        let mut data = 0_u128;
        let bits = 8 * u32::from(items.size);
        for (i, &register) in items.registers[..items.count.into()].iter().enumerate() {
            let value = match items.wide {
                true => self.wide(Wide(register))[lane],
                false => self.word(Reg(register))[lane].into(),
            };
            data |= u128::from(value & (u64::MAX >> (64 - bits))) << (bits * i as u32);
        }
        words_of(&data.to_le_bytes())
    }

    #[inline(always)]
    pub(super) fn store(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        items: &Items,
    ) -> Result<(), BoxedTrap> {
        let access = Access {
            space,
            bytes: items.bytes(),
            mask,
        };
        let mut places = self.addresses(address);
        self.locate(run, cluster, (access, &mut places))?;
        match (items.size, items.wide, items.count) {
            (4, false, 1) => self.store_words::<1>(&places, items, mask),
            (2, false, 1) => {
                let register = self.word(Reg(items.registers[0]));
                for lane in lanes_of(mask) {
                    // SAFETY: two bytes are there, and aligned, as was just seen.
                    unsafe { at::<u16>(places[lane]).write_volatile(register[lane] as u16) };
                }
            }
            (4, false, 2) => self.store_words::<2>(&places, items, mask),
            (4, false, _) => self.store_words::<4>(&places, items, mask),
            _ => {
                for lane in lanes_of(mask) {
                    let data = self.stored(items, lane);
                    // SAFETY: as many bytes are there, and aligned, as was just seen.
                    unsafe { write(at(places[lane]), items.bytes(), data) };
                }
            }
        }
        Ok(())
    }

    /// Stores some words of each lane of a mask, to places that are there.
    #[inline(always)]
    fn store_words<const COUNT: usize>(&self, places: &WideLanes, items: &Items, mask: u32) {
        let registers: [&Lanes; COUNT] = std::array::from_fn(|i| self.word(Reg(items.registers[i])));
        for lane in lanes_of(mask) {
            let mut data = [0; 4];
            for (word, register) in data.iter_mut().zip(registers) {
                *word = register[lane];
            }
            // SAFETY: the caller has seen that as many bytes are there, and aligned.
            unsafe { write(at(places[lane]), 4 * COUNT, data) };
        }
    }

    pub(super) fn atomic(
        &mut self,
        (run, cluster): (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        (op, old, value): (Atomic, Reg, Reg),
    ) -> Result<(), BoxedTrap> {
        let access = Access {
            space,
            bytes: 4,
            mask,
        };
        let mut places = self.addresses(address);
        self.locate(run, cluster, (access, &mut places))?;
        for lane in lanes_of(mask) {
            let value = self.word(value)[lane];
            // SAFETY: the word is there, and aligned, as was just seen.
            let word = unsafe { AtomicU32::from_ptr(at(places[lane])) };
            let new = |old: u32| match op {
                Atomic::Add => old.wrapping_add(value),
                Atomic::Inc if old >= value => 0,
                Atomic::Inc => old + 1,
                Atomic::MinU => old.min(value),
                Atomic::MaxU => old.max(value),
                Atomic::And => old & value,
                Atomic::Or => old | value,
                Atomic::Exchange => value,
            };
            let updated = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(new(old)));
            let (Ok(before) | Err(before)) = updated;
            self.words.put_lane(old, lane, before);
        }
        Ok(())
    }
}
