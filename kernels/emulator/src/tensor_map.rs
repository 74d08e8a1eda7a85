//! Matrices as copies of tiles see them: what `cuTensorMapEncodeTiled` writes and `cp.async.bulk.tensor` reads, for the one kind
//! that the kernels use: two dimensions of 16-bit elements, rows of a tile 128 bytes wide, their 16-byte chunks swizzled.

use crate::memory;

/// Bytes of a row of a tile.
pub(crate) const LINE_BYTES: usize = 128;
const ELEMENT_BYTES: usize = 2;
/// What tells a map from other memory.
const MARK: u64 = 0x6665_7272_756d_6170;

/// A row-major matrix and the tile that is copied of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorMap {
    pub(crate) address: u64,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    /// From one row to the next.
    pub(crate) row_bytes: u64,
    pub(crate) tile_rows: u64,
}

impl TensorMap {
    /// As the 128 bytes of a `CUtensorMap`.
    pub(crate) fn encode(&self) -> [u64; 16] {
        let mut words = [0; 16];
        let members = [
            MARK,
            self.address,
            self.rows,
            self.columns,
            self.row_bytes,
            self.tile_rows,
        ];
        words[..members.len()].copy_from_slice(&members);
        words
    }

    /// `None` if the words are not from [`Self::encode`].
    pub(crate) fn decode(words: &[u64; 16]) -> Option<Self> {
        let [MARK, address, rows, columns, row_bytes, tile_rows, ..] = *words else {
            return None;
        };
        Some(Self {
            address,
            rows,
            columns,
            row_bytes,
            tile_rows,
        })
    }

    pub(crate) fn tile_bytes(&self) -> usize {
        self.tile_rows as usize * LINE_BYTES
    }

    /// The tile whose first element is at (row, column), as it lies in shared memory at offset `to`: zeros outside of the matrix.
    ///
    /// # Errors
    /// An address that is in no allocation.
    pub(crate) fn tile(&self, (row, column): (i64, i64), to: usize) -> Result<Vec<u8>, u64> {
        let mut tile = vec![0; self.tile_bytes()];
        for line in 0..self.tile_rows as i64 {
            let source = row + line;
            let first = column.max(0);
            let end = (column + (LINE_BYTES / ELEMENT_BYTES) as i64).min(self.columns as i64);
            if source < 0 || source >= self.rows as i64 || end <= first {
                continue;
            }
            let from =
                self.address + source as u64 * self.row_bytes + (first as usize * ELEMENT_BYTES) as u64;
            let len = (end - first) as usize * ELEMENT_BYTES;
            let found = memory::find(from).is_some_and(|(_, end)| from + len as u64 <= end);
            if !found {
                return Err(from);
            }
            let at = line as usize * LINE_BYTES + (first - column) as usize * ELEMENT_BYTES;
            for i in 0..len {
                // SAFETY: within an allocation, as was just found; others may write there meanwhile, as on a GPU.
                let byte =
                    unsafe { std::ptr::with_exposed_provenance::<u8>(from as usize + i).read_volatile() };
                tile[swizzled(to + at + i) - to / 1024 * 1024 - to % 1024] = byte;
            }
        }
        Ok(tile)
    }
}

/// Where the byte of offset `at` of shared memory lies, with chunks of 16 bytes swizzled in rows of 128: chunk and row, each of
/// eight, give the chunk's place.
pub(crate) fn swizzled(at: usize) -> usize {
    at ^ (at >> 7 & 7) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_the_rows_of_its_matrix_swizzled_and_zeros_around() {
        let (rows, columns) = (5_u64, 72_u64);
        let address = memory::allocate((rows * columns) as usize * ELEMENT_BYTES).expect("memory");
        for i in 0..rows * columns {
            // SAFETY: within the allocation.
            unsafe {
                std::ptr::with_exposed_provenance_mut::<u16>(address as usize)
                    .add(i as usize)
                    .write(i as u16)
            };
        }
        let map = TensorMap {
            address,
            rows,
            columns,
            row_bytes: columns * 2,
            tile_rows: 8,
        };
        assert_eq!(TensorMap::decode(&map.encode()), Some(map));
        let tile = map.tile((1, 64), 2048).expect("within the matrix");
        for line in 0..8 {
            for column in 0..64 {
                let at = swizzled(line * LINE_BYTES + column * 2);
                let value = u16::from_le_bytes([tile[at], tile[at + 1]]);
                let inside = 1 + line < 5 && 64 + column < 72;
                let expected = if inside {
                    ((1 + line) * 72 + 64 + column) as u16
                } else {
                    0
                };
                assert_eq!(value, expected, "{line} {column}");
            }
        }
        memory::release(address);
        assert_eq!(map.tile((0, 0), 0), Err(address));
    }
}
