//! Memory for packed weights, in huge pages.
//!
//! Reading all weights once a token walks through memory faster than the tables of 4 KiB pages can be walked:
//! with 2 MiB pages the same loop reads about a fifth faster. Layers are smaller than that, so they share
//! chunks.
#![allow(unsafe_code)]

use std::{
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

/// Alignment of what is handed out.
const ALIGN: usize = 64;

/// A huge page.
const PAGE: usize = 2 << 20;

/// Address space that is reserved at once; only what is written takes memory.
const CHUNK: usize = 64 << 20;

/// Hands out zeroed memory that lives as long as its user.
#[derive(Default)]
pub(super) struct Arena {
    current: Mutex<Option<(Arc<Chunk>, usize)>>,
}

impl Arena {
    /// `len` zeros, or `None` if there is no memory for them.
    pub(super) fn alloc(&self, len: usize) -> Option<ArenaBytes> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, used) = match current.take() {
            Some((chunk, used)) if chunk.len - used >= len => (chunk, used),
            _ => (Arc::new(Chunk::map(len.max(CHUNK))?), 0),
        };
        // SAFETY: `used + len` is inside the chunk.
        let start = unsafe { chunk.start.add(used) };
        let end = (used + len).next_multiple_of(ALIGN).min(chunk.len);
        *current = Some((Arc::clone(&chunk), end));
        Some(ArenaBytes {
            start,
            len,
            _chunk: chunk,
        })
    }
}

/// Bytes of a chunk that belong to one user.
pub(super) struct ArenaBytes {
    start: NonNull<u8>,
    len: usize,
    _chunk: Arc<Chunk>,
}

// SAFETY: an `ArenaBytes` alone refers to its part of the chunk.
unsafe impl Send for ArenaBytes {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for ArenaBytes {}

impl Deref for ArenaBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised by the system, alive as long as the chunk, handed out once.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for ArenaBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for ArenaBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaBytes({} bytes)", self.len)
    }
}

/// A private mapping, aligned to huge pages.
struct Chunk {
    map: NonNull<u8>,
    map_len: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process; the chunk itself only unmaps it.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn map(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        let map_len = len.checked_add(PAGE)?;
        // SAFETY: a new mapping of anonymous memory touches no other.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return None;
        }
        let map = NonNull::new(map.cast::<u8>())?;
        let offset = map.as_ptr().align_offset(PAGE);
        // SAFETY: the mapping is `PAGE` bytes longer than the chunk.
        let start = unsafe { map.add(offset) };
        #[cfg(target_os = "linux")]
        // SAFETY: inside the mapping. A refusal only costs speed.
        unsafe {
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
        }
        Some(Self {
            map,
            map_len,
            start,
            len,
        })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; nobody refers to it any more.
        unsafe {
            libc::munmap(self.map.as_ptr().cast(), self.map_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, CHUNK};

    #[test]
    fn parts_are_aligned_zero_and_apart() {
        let arena = Arena::default();
        let lens = [1, 64, 100, CHUNK, 7, CHUNK / 2, CHUNK / 2, 0, CHUNK + 1, 3];
        let mut parts: Vec<_> = lens
            .iter()
            .map(|&len| arena.alloc(len).expect("address space"))
            .collect();
        for (index, part) in parts.iter_mut().enumerate() {
            assert_eq!(part.as_ptr() as usize % 64, 0);
            assert!(part.iter().take(1000).all(|&byte| byte == 0));
            part.iter_mut()
                .take(1000)
                .for_each(|byte| *byte = index as u8 + 1);
            if let Some(last) = part.last_mut() {
                *last = index as u8 + 1;
            }
        }
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(part.len(), lens[index]);
            let written = part.iter().take(1000).chain(part.last());
            assert!(written.into_iter().all(|&byte| byte == index as u8 + 1));
        }
    }
}
