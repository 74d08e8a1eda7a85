//! Files as memory.
#![allow(unsafe_code)] // mapping a file, and giving its pages back

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use ferrum_kernels::{SharedBytes, tensor::ByteOwner};
use memmap2::{Mmap, UncheckedAdvice};

use crate::LoadError;

/// Maps a file read-only: its pages are read when they are touched, and shared with every process that maps it.
pub(crate) fn map_file(path: &Path) -> Result<SharedBytes, LoadError> {
    let io = |source| LoadError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(SharedBytes::from(Vec::new()));
    }
    // SAFETY: the map is only read. A file that another process shortens or rewrites while it is mapped would break
    // the promise of a constant slice; downloads are written to a temporary name and renamed, so that a complete
    // file is never written again.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    let len = map.len();
    Ok(SharedBytes::new(Arc::new(MappedFile { map, file }), 0..len))
}

struct MappedFile {
    map: Mmap,
    file: File,
}

impl ByteOwner for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn copy_to(&self, start: usize, out: &mut [u8]) {
        // Read, as mapping each page would take longer than to copy it.
        if self.file.read_exact_at(out, start as u64).is_err() {
            out.copy_from_slice(&self.map[start..start + out.len()]);
        }
    }

    fn release(&self, range: Range<usize>) {
        let pages = whole_pages(range, page_size());
        if pages.is_empty() {
            return;
        }
        // SAFETY: the pages belong to a shared read-only mapping of a file: dropping them loses nothing, a later read
        // brings the same bytes back. They lie within the map, as `range` lies within it.
        let advised = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, pages.start, pages.len())
        };
        if let Err(error) = advised {
            tracing::debug!(%error, "pages of a copied tensor stay resident");
        }
    }
}

/// The pages that lie within `range` entirely.
fn whole_pages(range: Range<usize>, page: usize) -> Range<usize> {
    range.start.next_multiple_of(page)..range.end / page * page
}

fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_whole_pages_are_given_back() {
        assert_eq!(whole_pages(0..8192, 4096), 0..8192);
        assert_eq!(whole_pages(1..8191, 4096), 4096..4096);
        assert!(whole_pages(1..4095, 4096).is_empty());
        assert_eq!(whole_pages(100..20_000, 4096), 4096..16_384);
    }

    #[test]
    fn released_bytes_read_the_same_again() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).expect("written");
        let bytes = map_file(file.path()).expect("mapped");
        assert_eq!(*bytes, *content);
        bytes.release();
        assert_eq!(*bytes, *content);
    }

    #[test]
    fn copied_bytes_are_those_of_the_map() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let content: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).expect("written");
        let part = map_file(file.path()).expect("mapped").slice(100..9_000);
        let mut out = [0; 300];
        part.copy_to(50, &mut out);
        assert_eq!(out, content[150..450]);
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(map_file(file.path()).expect("mapped").is_empty());
    }
}
