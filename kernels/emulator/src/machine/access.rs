//! Where lanes' accesses are, and single accesses.

use super::{
    Run,
    cluster::Cluster,
    longs::WideLanes,
    warp::{BoxedTrap, Trap, Warp, lanes_of},
};
use crate::ptx::{Address, Base, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Space};

/// What is below in a window of generic addresses.
const WITHIN_WINDOW: u64 = SHARED_WINDOW - 1;

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
pub(super) unsafe fn write(to: *mut u8, bytes: usize, data: [u32; 4]) {
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

/// What lanes access: a space, how many bytes, and which lanes.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) space: Space,
    pub(super) bytes: usize,
    pub(super) mask: u32,
}

impl Warp {
    /// Each lane's address.
    #[inline(always)]
    pub(super) fn addresses(&self, address: &Address) -> WideLanes {
        let offset = address.offset as u64;
        match address.base {
            Base::None => [offset; 32],
            Base::Word(reg) => {
                let base = self.word(reg);
                // Addresses of 32 bits stay within these.
                each!(|i| base[i].wrapping_add(offset as u32).into())
            }
            Base::Wide(wide) => {
                let base = self.wide(wide);
                each!(|i| base[i].wrapping_add(offset))
            }
        }
    }

    /// Makes of the addresses of the lanes of a mask places in this process: within a memory of the kernel, and aligned.
    #[inline(always)]
    pub(super) fn locate(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (access, addresses): (Access, &mut WideLanes),
    ) -> Result<(), BoxedTrap> {
        let Access { space, bytes, mask } = access;
        let own = addresses[mask.trailing_zeros() as usize % 32];
        // All lanes are in one memory, as nearly always: its first address, its length, and where it is in this process.
        let memory = match space {
            Space::Global | Space::Generic => {
                let found = run.found.around(own);
                found.map(|(first, end)| (first, end - first, first))
            }
            Space::Shared => {
                let shared = cluster.shared[self.block].bytes_mut();
                let place = shared.as_mut_ptr().expose_provenance();
                Some((0, shared.len() as u64, place as u64))
            }
            _ => None,
        };
        if let Some((first, len, place)) = memory {
            // Below 0, or misaligned, if any is.
            let last = len.wrapping_sub(bytes as u64);
            let (mut outside, mut bits) = (last, first);
            for (i, &address) in addresses.iter().enumerate() {
                let address = if mask >> i & 1 == 1 { address } else { own };
                let offset = address.wrapping_sub(first);
                outside |= offset | last.wrapping_sub(offset);
                bits |= offset;
            }
            if outside >> 63 == 0 && bits & (bytes as u64 - 1) == 0 {
                if place != first {
                    for address in addresses {
                        *address = address.wrapping_add(place);
                    }
                }
                return Ok(());
            }
        }
        self.locate_each(run, cluster, (access, addresses))
    }

    /// As [`Self::locate`], for each lane on its own.
    #[cold]
    #[inline(never)]
    fn locate_each(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (access, addresses): (Access, &mut WideLanes),
    ) -> Result<(), BoxedTrap> {
        for lane in lanes_of(access.mask) {
            let place = self.locate_one(run, cluster, (access, lane, addresses[lane]));
            addresses[lane] = place.map_err(|what| Trap::new(lane, what))? as u64;
        }
        Ok(())
    }

    fn locate_one(
        &mut self,
        run: &mut Run<'_>,
        cluster: &mut Cluster,
        (access, lane, address): (Access, usize, u64),
    ) -> Result<usize, String> {
        let bytes = access.bytes;
        let space = match (access.space, address & !WITHIN_WINDOW) {
            (Space::Generic, SHARED_WINDOW) => Space::Shared,
            (Space::Generic, LOCAL_WINDOW) => Space::Local,
            (Space::Generic, PARAM_WINDOW) => Space::Param,
            (space, _) => space,
        };
        let offset = address & WITHIN_WINDOW;
        let memory = match space {
            Space::Shared => {
                let (block, offset) = cluster.place(self.block, offset, bytes)?;
                let first = cluster.shared[block].bytes_mut().as_mut_ptr();
                return Ok(first.expose_provenance() + offset);
            }
            Space::Global | Space::Generic => {
                if !address.is_multiple_of(bytes as u64) {
                    return Err(format!("{bytes} bytes at {address:#x}, not aligned"));
                }
                if address >= SHARED_WINDOW || !run.found.holds(address, bytes as u64) {
                    return Err(format!("{bytes} bytes at {address:#x}, in no allocation"));
                }
                return Ok(address as usize);
            }
            Space::Local => self.local.get_mut(lane),
            Space::Param => Some(&mut run.arguments),
        };
        let place = memory.map(|memory| memory.bytes_mut());
        let place = place
            .filter(|place| offset as usize + bytes <= place.len() && offset.is_multiple_of(bytes as u64));
        let place = place.ok_or_else(|| format!("{bytes} bytes at {offset:#x} of {space:?}"))?;
        Ok(place.as_mut_ptr().expose_provenance() + offset as usize)
    }
}
