//! Numbers in the memory of devices.

use std::ptr;

use half::{bf16, f16};

use crate::driver::is_allocated;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Appends the `len` numbers at `address`.
    pub(crate) fn read(self, address: u64, len: usize, values: &mut Vec<f32>) -> Result<(), String> {
        let from = self.allocated(address, len)?;
        values.extend((0..len).map(|i| {
            // SAFETY: allocated; others may write there meanwhile, as on a GPU, which is theirs to avoid.
            unsafe {
                match self {
                    Self::F32 => from.cast::<f32>().add(i).read_unaligned(),
                    Self::F16 => from.cast::<f16>().add(i).read_unaligned().to_f32(),
                    Self::Bf16 => from.cast::<bf16>().add(i).read_unaligned().to_f32(),
                }
            }
        }));
        Ok(())
    }

    /// Writes `values`, rounded, to `address`.
    pub(crate) fn write(self, address: u64, values: &[f32]) -> Result<(), String> {
        let to = self.allocated(address, values.len())?;
        for (i, &value) in values.iter().enumerate() {
            // SAFETY: as in `read`.
            unsafe {
                match self {
                    Self::F32 => to.cast::<f32>().add(i).write_unaligned(value),
                    Self::F16 => to.cast::<f16>().add(i).write_unaligned(f16::from_f32(value)),
                    Self::Bf16 => to.cast::<bf16>().add(i).write_unaligned(bf16::from_f32(value)),
                }
            }
        }
        Ok(())
    }

    fn allocated(self, address: u64, len: usize) -> Result<*mut u8, String> {
        match len == 0 || is_allocated(address, len * self.size()) {
            true => Ok(ptr::with_exposed_provenance_mut(address as usize)),
            false => Err(format!(
                "{len} numbers ({self:?}) at {address:#x} are not allocated"
            )),
        }
    }
}
