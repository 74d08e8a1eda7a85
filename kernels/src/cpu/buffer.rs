//! Zeroed, 64-byte aligned memory.
#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Alignment of every buffer: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// Element types for which all bits zero are a value.
pub trait Zeroable: Copy + Send + Sync + 'static + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! zeroable {
    ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl Zeroable for $t {})* };
}
zeroable!(f32, i32, u32, u16, u8, i8);

/// A fixed number of elements, 64-byte aligned, zero at first. Pages never written cost no memory.
pub struct AlignedBuf<T: Zeroable> {
    allocation: NonNull<u8>,
    layout: Layout,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its memory, and its elements are plain values.
unsafe impl<T: Zeroable> Send for AlignedBuf<T> {}
// SAFETY: as above; shared access is read-only.
unsafe impl<T: Zeroable> Sync for AlignedBuf<T> {}

impl<T: Zeroable> AlignedBuf<T> {
    /// No elements, no allocation.
    pub fn empty() -> Self {
        Self {
            allocation: NonNull::dangling(),
            layout: Layout::new::<()>(),
            start: NonNull::dangling(),
            len: 0,
        }
    }

    /// `len` zeros, or `None` if there is no memory for them.
    pub fn zeroed(len: usize) -> Option<Self> {
        // Allocators hand out zeroed memory untouched (as `calloc`) only for small alignments; a larger one
        // would be cleared by hand and so made resident. Hence the alignment by hand.
        let bytes = len.checked_mul(size_of::<T>())?.checked_add(ALIGN)?;
        let layout = Layout::from_size_align(bytes, 16).ok()?;
        // SAFETY: the layout is at least `ALIGN` bytes long.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = allocation.as_ptr().align_offset(ALIGN);
        // SAFETY: `offset < ALIGN`, and the allocation is `ALIGN` bytes longer than the elements.
        let start = unsafe { allocation.add(offset) }.cast();
        Some(Self {
            allocation,
            layout,
            start,
            len,
        })
    }
}

impl<T: Zeroable> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `zeroed` with this layout, and freed once.
            unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
        }
    }
}

impl<T: Zeroable> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised (zeroed, or written since) elements, owned by self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} elements)", self.len)
    }
}

/// Free physical memory, for messages; 0 where the system does not tell.
pub(crate) fn available_memory_bytes() -> usize {
    // SAFETY: `sysconf` only reads its argument.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_AVPHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    usize::try_from(pages).unwrap_or(0) * usize::try_from(page).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::AlignedBuf;

    #[test]
    fn a_buffer_is_aligned_and_zero() {
        for len in [0, 1, 3, 1000] {
            let buffer = AlignedBuf::<f32>::zeroed(len).expect("memory for a small buffer");
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert_eq!(buffer.len(), len);
        }
    }

    #[test]
    fn a_size_that_overflows_is_refused() {
        assert!(AlignedBuf::<f32>::zeroed(usize::MAX / 2).is_none());
    }
}
