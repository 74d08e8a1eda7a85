//! What the blocks of a cluster share.

use super::{barriers::Board, copies::Later};

/// Shared memory before anything is written to it.
const UNWRITTEN: u64 = u64::MAX;

/// A block's shared memory.
pub(super) struct Shared {
    /// In twos, so that 16 bytes are aligned.
    words: Vec<[u64; 2]>,
    len: usize,
}

impl Shared {
    pub(super) fn new(len: usize) -> Self {
        Self {
            words: vec![[UNWRITTEN; 2]; len.div_ceil(16)],
            len,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the words are as long, or longer, and any byte will do.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the words are as long, or longer, and any byte will do.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }
}

/// Memory and barriers of blocks that run together.
pub(super) struct Cluster {
    /// The place in the grid of its first block.
    pub(super) first: [u32; 3],
    pub(super) shared: Vec<Shared>,
    pub(super) board: Board,
    pub(super) later: Vec<Later>,
}

impl Cluster {
    /// The block and the offset there of an address in shared memory, as `block` sees it.
    pub(super) fn place(&self, block: usize, address: u64, len: usize) -> Result<(usize, usize), String> {
        let (of, offset) = match address >> 24 {
            0 => (block, address as usize),
            number => (number as usize - 1, address as usize & 0xff_ffff),
        };
        let Some(shared) = self.shared.get(of) else {
            return Err(format!(
                "{len} bytes at shared address {address:#x}, of no block of the cluster"
            ));
        };
        if offset + len > shared.len {
            let size = shared.len;
            return Err(format!(
                "{len} bytes at {offset:#x} of {size:#x} bytes of shared memory"
            ));
        }
        if of != block && !self.board.block_runs(of) {
            return Err(format!(
                "shared memory of block {of} of the cluster, which has ended"
            ));
        }
        if !offset.is_multiple_of(len) {
            return Err(format!("{len} bytes at shared address {address:#x}, not aligned"));
        }
        Ok((of, offset))
    }
}
