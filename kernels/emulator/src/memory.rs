//! The memory that kernels may use: device allocations and pinned host memory, by their addresses in this process.

use std::{
    alloc::{Layout, alloc, dealloc},
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
};

/// What a GPU aligns its allocations to, and bulk copies want.
const ALIGNMENT: usize = 1024;
/// New memory is filled with this: no number, in any type of float.
const UNWRITTEN: u8 = 0xff;

/// Lengths by addresses.
static ALLOCATIONS: RwLock<BTreeMap<u64, usize>> = RwLock::new(BTreeMap::new());

/// Allocates `len` bytes; `None` if there are none, or `len` is 0.
pub(crate) fn allocate(len: usize) -> Option<u64> {
    let layout = layout(len)?;
    // SAFETY: the layout has a size.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: just allocated, `len` bytes long.
    unsafe { memory.write_bytes(UNWRITTEN, len) };
    let address = memory.expose_provenance() as u64;
    let mut allocations = ALLOCATIONS.write().unwrap_or_else(PoisonError::into_inner);
    allocations.insert(address, len);
    Some(address)
}

/// Gives back what [`allocate`] gave; false if it did not.
pub(crate) fn release(address: u64) -> bool {
    let mut allocations = ALLOCATIONS.write().unwrap_or_else(PoisonError::into_inner);
    let Some(layout) = allocations.remove(&address).and_then(layout) else {
        return false;
    };
    // SAFETY: allocated with this layout, and taken from the list just now.
    unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address as usize), layout) };
    true
}

fn layout(len: usize) -> Option<Layout> {
    let layout = Layout::from_size_align(len, ALIGNMENT).ok()?;
    (len > 0).then_some(layout)
}

/// The allocation that `address` lies in: its first address and the one behind its last.
pub(crate) fn find(address: u64) -> Option<(u64, u64)> {
    let allocations = ALLOCATIONS.read().unwrap_or_else(PoisonError::into_inner);
    let (&first, &len) = allocations.range(..=address).next_back()?;
    let end = first + len as u64;
    (address < end).then_some((first, end))
}

/// What one thread of the emulator has found last: kernels stay within few allocations.
#[derive(Default)]
pub(crate) struct Found {
    ranges: [(u64, u64); 8],
    next: usize,
}

impl Found {
    /// The allocation that `address` lies in, which was there when it was last looked for: its first address and the one
    /// behind its last.
    #[inline]
    pub(crate) fn around(&mut self, address: u64) -> Option<(u64, u64)> {
        let within = |&&(first, end): &&(u64, u64)| first <= address && address < end;
        if let Some(&range) = self.ranges.iter().find(within) {
            return Some(range);
        }
        let range = find(address)?;
        self.ranges[self.next] = range;
        self.next = (self.next + 1) % self.ranges.len();
        Some(range)
    }

    /// Whether `len` bytes at `address` lie within an allocation, which was there when it was last looked for.
    pub(crate) fn holds(&mut self, address: u64, len: u64) -> bool {
        self.around(address).is_some_and(|(_, end)| len <= end - address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_within_an_allocation_is_found_until_it_is_given_back() {
        let address = allocate(100).expect("memory");
        assert_eq!(address % ALIGNMENT as u64, 0);
        let mut found = Found::default();
        assert!(found.holds(address, 100) && found.holds(address + 99, 1));
        assert!(!found.holds(address + 97, 4));
        assert!(release(address));
        assert_eq!(find(address), None);
        assert!(!release(address));
    }
}
