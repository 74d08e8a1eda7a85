//! Loads, stores and atomic operations.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    Run,
    cluster::{Cluster, Shared},
    warp::{BoxedTrap, Trap, Warp, lanes_of},
};
use crate::memory::Found;
use crate::ptx::{Address, Atomic, Base, Items, LOCAL_WINDOW, PARAM_WINDOW, Reg, SHARED_WINDOW, Space};

/// What is below in a window of generic addresses.
const WITHIN_WINDOW: u64 = (1 << 60) - 1;

pub(super) fn words_of(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

pub(super) fn bytes_of(words: &[u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}

/// Reads 1, 2, 4, 8 or 16 bytes at once.
///
/// # Safety
/// The bytes are there, and aligned.
#[inline(always)]
pub(super) unsafe fn read(from: *const u8, bytes: usize) -> [u32; 4] {
    // SAFETY: as the caller says. Others may write there meanwhile: reads are volatile, and single.
    unsafe {
        match bytes {
            1 => [from.read_volatile().into(), 0, 0, 0],
            2 => [from.cast::<u16>().read_volatile().into(), 0, 0, 0],
            4 => [from.cast::<u32>().read_volatile(), 0, 0, 0],
            8 => {
                let value = from.cast::<u64>().read_volatile();
                [value as u32, (value >> 32) as u32, 0, 0]
            }
            #[cfg(target_arch = "x86_64")]
            _ => std::mem::transmute::<std::arch::x86_64::__m128i, [u32; 4]>(
                std::arch::x86_64::_mm_load_si128(from.cast()),
            ),
            #[cfg(not(target_arch = "x86_64"))]
            _ => from.cast::<[u32; 4]>().read_volatile(),
        }
    }
}

/// Writes 1, 2, 4, 8 or 16 bytes at once.
///
/// # Safety
/// The bytes are there, and aligned.
#[inline(always)]
unsafe fn write(to: *mut u8, bytes: usize, data: [u32; 4]) {
    // SAFETY: as the caller says. Others may read there meanwhile: writes are volatile, and single.
    unsafe {
        match bytes {
            1 => to.write_volatile(data[0] as u8),
            2 => to.cast::<u16>().write_volatile(data[0] as u16),
            4 => to.cast::<u32>().write_volatile(data[0]),
            8 => {
                let value = u64::from(data[1]) << 32 | u64::from(data[0]);
                to.cast::<u64>().write_volatile(value);
            }
            #[cfg(target_arch = "x86_64")]
            _ => std::arch::x86_64::_mm_store_si128(
                to.cast(),
                std::mem::transmute::<[u32; 4], std::arch::x86_64::__m128i>(data),
            ),
            #[cfg(not(target_arch = "x86_64"))]
            _ => to.cast::<[u32; 4]>().write_volatile(data),
        }
    }
}

/// Where an access of a lane is.
struct Access<'a> {
    found: &'a mut Found,
    arguments: &'a mut Shared,
    cluster: &'a mut Cluster,
    block: usize,
    space: Space,
    bytes: usize,
    /// Addresses that were seen to be within an allocation, all lanes' at once.
    checked: bool,
}

impl Warp {
    /// Each lane's address.
    #[inline(always)]
    pub(super) fn addresses(&self, address: &Address) -> [u64; 32] {
        let offset = address.offset as u64;
        match address.base {
            Base::None => [offset; 32],
            Base::Word(reg) => {
                let base = &self.words[reg.0 as usize];
                // Addresses of 32 bits stay within these.
                super::longs::each(|i| base[i].wrapping_add(offset as u32).into())
            }
            Base::Wide(wide) => {
                let base = &self.wides[wide.0 as usize];
                super::longs::each(|i| base[i].wrapping_add(offset))
            }
        }
    }

    fn access<'a>(
        &self,
        (run, cluster): (&'a mut Run<'_>, &'a mut Cluster),
        space: Space,
        bytes: usize,
        (addresses, mask): (&[u64; 32], u32),
    ) -> Access<'a> {
        let mut checked = false;
        if matches!(space, Space::Global | Space::Generic) && mask == u32::MAX {
            let (mut first, mut last, mut bits) = (u64::MAX, 0, 0);
            for &address in addresses {
                first = first.min(address);
                last = last.max(address);
                bits |= address;
            }
            checked = bits & (bytes as u64 - 1) == 0
                && last < SHARED_WINDOW
                && run.found.holds(first, last - first + bytes as u64);
        }
        Access {
            found: &mut run.found,
            arguments: &mut run.arguments,
            cluster,
            block: self.block,
            space,
            bytes,
            checked,
        }
    }

    /// A pointer to what a lane accesses.
    #[inline(always)]
    fn pointer(&mut self, access: &mut Access<'_>, lane: usize, address: u64) -> Result<*mut u8, BoxedTrap> {
        if access.checked {
            return Ok(std::ptr::with_exposed_provenance_mut(address as usize));
        }
        let pointer = self.slow_pointer(access, lane, address);
        pointer.map_err(|what| Trap::new(lane, what))
    }

    fn slow_pointer(
        &mut self,
        access: &mut Access<'_>,
        lane: usize,
        address: u64,
    ) -> Result<*mut u8, String> {
        let bytes = access.bytes;
        let space = match (access.space, address & !WITHIN_WINDOW) {
            (Space::Generic, SHARED_WINDOW) => Space::Shared,
            (Space::Generic, LOCAL_WINDOW) => Space::Local,
            (Space::Generic, PARAM_WINDOW) => Space::Param,
            (space, _) => space,
        };
        let offset = address & WITHIN_WINDOW;
        match space {
            Space::Shared => {
                let (block, offset) = access.cluster.place(access.block, offset, bytes)?;
                // In bounds, as was just seen.
                Ok(access.cluster.shared[block].bytes_mut()[offset..].as_mut_ptr())
            }
            Space::Global | Space::Generic => {
                if !address.is_multiple_of(bytes as u64) {
                    return Err(format!("{bytes} bytes at {address:#x}, not aligned"));
                }
                if address >= SHARED_WINDOW || !access.found.holds(address, bytes as u64) {
                    return Err(format!("{bytes} bytes at {address:#x}, in no allocation"));
                }
                Ok(std::ptr::with_exposed_provenance_mut(address as usize))
            }
            Space::Local | Space::Param => {
                let memory = match space {
                    Space::Local => self.local.get_mut(lane),
                    _ => Some(&mut *access.arguments),
                };
                let len = offset as usize + bytes;
                let place = memory.map(|memory| memory.bytes_mut());
                let place = place.filter(|place| len <= place.len() && offset.is_multiple_of(bytes as u64));
                let place = place.ok_or_else(|| format!("{bytes} bytes at {offset:#x} of {space:?}"))?;
                Ok(place[offset as usize..].as_mut_ptr())
            }
        }
    }

    pub(super) fn load(
        &mut self,
        parts: (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        items: &Items,
    ) -> Result<(), BoxedTrap> {
        let bytes = usize::from(items.size) * usize::from(items.count);
        let addresses = self.addresses(address);
        let mut access = self.access(parts, space, bytes, (&addresses, mask));
        if items.size == 4 && !items.wide {
            for lane in lanes_of(mask) {
                let pointer = self.pointer(&mut access, lane, addresses[lane])?;
                // SAFETY: within a memory of this kernel, and aligned, as was just found.
                let data = unsafe { read(pointer, bytes) };
                for (&register, word) in items.registers.iter().zip(data).take(items.count.into()) {
                    self.words[register as usize][lane] = word;
                }
            }
            return Ok(());
        }
        for lane in lanes_of(mask) {
            let pointer = self.pointer(&mut access, lane, addresses[lane])?;
            // SAFETY: within a memory of this kernel, and aligned, as was just found.
            let data = unsafe { read(pointer, bytes) };
            let data = u128::from_le_bytes(bytes_of(&data));
            let bits = 8 * u32::from(items.size);
            for (i, &register) in items.registers[..items.count.into()].iter().enumerate() {
                let unused = 64 - bits;
                let part = (data >> (bits * i as u32)) as u64 & (u64::MAX >> unused);
                let value = match items.signed {
                    true => ((part << unused) as i64 >> unused) as u64,
                    false => part,
                };
                match items.wide {
                    true => self.wides[register as usize][lane] = value,
                    // Registers of 16 bits have no upper half.
                    false if items.size == 2 => self.words[register as usize][lane] = part as u32,
                    false => self.words[register as usize][lane] = value as u32,
                }
            }
        }
        Ok(())
    }

    /// What a lane stores.
    #[inline(always)]
    pub(super) fn stored(&self, items: &Items, lane: usize) -> [u32; 4] {
        if items.size == 4 && !items.wide {
            let mut data = [0; 4];
            for (word, &register) in data.iter_mut().zip(&items.registers).take(items.count.into()) {
                *word = self.words[register as usize][lane];
            }
            return data;
        }
        let mut data = 0_u128;
        let bits = 8 * u32::from(items.size);
        for (i, &register) in items.registers[..items.count.into()].iter().enumerate() {
            let value = match items.wide {
                true => self.wides[register as usize][lane],
                false => self.words[register as usize][lane].into(),
            };
            data |= u128::from(value & (u64::MAX >> (64 - bits))) << (bits * i as u32);
        }
        words_of(&data.to_le_bytes())
    }

    pub(super) fn store(
        &mut self,
        parts: (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        items: &Items,
    ) -> Result<(), BoxedTrap> {
        let bytes = usize::from(items.size) * usize::from(items.count);
        let addresses = self.addresses(address);
        let mut access = self.access(parts, space, bytes, (&addresses, mask));
        for lane in lanes_of(mask) {
            let data = self.stored(items, lane);
            let pointer = self.pointer(&mut access, lane, addresses[lane])?;
            // SAFETY: within a memory of this kernel, and aligned, as was just found.
            unsafe { write(pointer, bytes, data) };
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        parts: (&mut Run<'_>, &mut Cluster),
        (space, address, mask): (Space, &Address, u32),
        (op, old, value): (Atomic, Reg, Reg),
    ) -> Result<(), BoxedTrap> {
        let addresses = self.addresses(address);
        let mut access = self.access(parts, space, 4, (&addresses, mask));
        for lane in lanes_of(mask) {
            let value = self.words[value.0 as usize][lane];
            let pointer = self.pointer(&mut access, lane, addresses[lane])?;
            // SAFETY: within a memory of this kernel, and aligned, as was just found.
            let word = unsafe { AtomicU32::from_ptr(pointer.cast()) };
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
            self.words[old.0 as usize][lane] = before;
        }
        Ok(())
    }
}
