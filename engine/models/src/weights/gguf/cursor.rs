//! Reading forward through bytes that may end anywhere.

use std::ops::Range;

use ferrum_kernels::SharedBytes;

/// A position in a file. Every read is checked; an error names the position.
pub(super) struct Cursor<'a> {
    file: &'a SharedBytes,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a SharedBytes) -> Self {
        Self { file, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn file(&self) -> &'a SharedBytes {
        self.file
    }

    /// The range of the next `len` bytes, which are skipped.
    pub(super) fn skip(&mut self, len: u64) -> Result<Range<usize>, String> {
        let start = self.position;
        let left = self.file.len() - start;
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                self.position += len;
                Ok(start..self.position)
            }
            _ => Err(format!(
                "{len} bytes are needed at {start}, the file has {left} left (is it truncated?)"
            )),
        }
    }

    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], String> {
        let range = self.skip(len)?;
        Ok(&self.file[range])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N as u64)?;
        bytes.try_into().map_err(|_| "unreachable length".to_owned())
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, String> {
        let at = self.position;
        let len = self.u64()?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| format!("the text at {at} is not UTF-8"))
    }

    pub(super) fn string(&mut self) -> Result<String, String> {
        self.str().map(str::to_owned)
    }
}
