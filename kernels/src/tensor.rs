//! What a checkpoint holds, before a backend has packed it.

use std::{fmt, ops::Range, sync::Arc};

/// Memory that a [`SharedBytes`] keeps alive, usually a mapped file.
pub trait ByteOwner: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// Copies bytes from `start` on; of a file, without its pages becoming part of this process.
    ///
    /// # Panics
    /// If there are not as many.
    fn copy_to(&self, start: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes()[start..start + out.len()]);
    }

    /// Says that `range` was copied elsewhere and will hardly be read again, so that a mapped file can
    /// drop the pages from the resident set. Reading them later stays correct.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl ByteOwner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A range of bytes that shares the ownership of its memory; cloning is cheap.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl SharedBytes {
    /// The bytes of `owner` in `range`.
    ///
    /// # Panics
    /// If `range` reaches past the owner's bytes.
    pub fn new(owner: Arc<dyn ByteOwner>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= owner.bytes().len(),
            "range outside of its owner"
        );
        Self { owner, range }
    }

    /// A sub-range, relative to this range.
    ///
    /// # Panics
    /// If `range` reaches past this one.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let start = self.range.start + range.start;
        let end = self.range.start + range.end;
        assert!(
            start <= end && end <= self.range.end,
            "slice outside of its range"
        );
        Self {
            owner: Arc::clone(&self.owner),
            range: start..end,
        }
    }

    /// Copies bytes from `start` on, relative to this range.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn copy_to(&self, start: usize, out: &mut [u8]) {
        assert!(start + out.len() <= self.range.len(), "a copy past the range");
        self.owner.copy_to(self.range.start + start, out);
    }

    /// Tells the owner that these bytes were copied; see [`ByteOwner::release`].
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl std::ops::Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            owner: Arc::new(bytes),
            range,
        }
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}

/// How the elements of a weight matrix are stored in a checkpoint.
///
/// A block covers [`Self::block_len`] consecutive elements of one row. The `Q` formats are those of GGUF
/// (`ggml-common.h` in ggml). The `Int4` formats are our own, for files that keep levels, zero levels and scales
/// apart (GPTQ): a block holds an f16 scale, the level that stands for 0 (0..=16) as a byte, a byte that is 0, then
/// two levels a byte, the first of them in its low half; `x = scale * (level - zero)`, which is exact in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, one f16 scale a block of 32.
    Q4_0,
    /// 4 bits, f16 scale and minimum a block of 32.
    Q4_1,
    /// 5 bits, one f16 scale a block of 32.
    Q5_0,
    /// 5 bits, f16 scale and minimum a block of 32.
    Q5_1,
    /// 8 bits, one f16 scale a block of 32.
    Q8_0,
    /// 4 bits, super-block of 256 with 6-bit scales and minimums.
    Q4K,
    /// 5 bits, super-block of 256 with 6-bit scales and minimums.
    Q5K,
    /// 6 bits, super-block of 256 with 8-bit scales.
    Q6K,
    /// 4 bits, f16 scale and zero level a block of 32.
    Int4G32,
    /// 4 bits, f16 scale and zero level a block of 64.
    Int4G64,
    /// 4 bits, f16 scale and zero level a block of 128.
    Int4G128,
}

impl WeightFormat {
    /// Elements a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Int4G32 => 32,
            Self::Int4G64 => 64,
            Self::Int4G128 => 128,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Int4G32 => 20,
            Self::Int4G64 => 36,
            Self::Int4G128 => 68,
        }
    }

    /// Bytes of `len` elements, or `None` if `len` is no multiple of the block.
    pub const fn bytes_of(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        Some(len / self.block_len() * self.block_bytes())
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Int4G32 => "INT4 g32",
            Self::Int4G64 => "INT4 g64",
            Self::Int4G128 => "INT4 g128",
        })
    }
}

/// A matrix `(rows, cols)`, row-major, as a checkpoint stores it; a vector has one row.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// Storage format.
    pub format: WeightFormat,
    /// Output features of a linear layer; entries of an embedding table.
    pub rows: usize,
    /// Input features of a linear layer; width of an embedding.
    pub cols: usize,
    /// `rows` x `format.bytes_of(cols)` bytes.
    pub bytes: SharedBytes,
    /// Which element of a logical row each stored column is: column `i` of `bytes` belongs to input feature
    /// `order[i]`. A permutation of `0..cols`; `None` where columns are stored in their own order.
    pub order: Option<Arc<[u32]>>,
}

impl HostTensor {
    /// A matrix whose columns are stored in their own order.
    pub fn new(format: WeightFormat, rows: usize, cols: usize, bytes: SharedBytes) -> Self {
        Self {
            format,
            rows,
            cols,
            bytes,
            order: None,
        }
    }
}
