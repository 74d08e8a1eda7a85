//! Activations and indices on the GPU.

use std::sync::Arc;

use half::{bf16, f16};

use crate::{
    backend::BackendError,
    cpu::check_len,
    cuda::{
        device::{Device, DeviceMemory, MOST_STAGED_BYTES},
        launch::Launch,
    },
    tensor::WeightFormat,
};

/// Of the kernel in indices.cu: buffers that it writes at once, threads of a block, most blocks.
const SPREAD_PARTS: usize = 8;
const SPREAD_THREADS: usize = 256;
const MOST_SPREAD_BLOCKS: usize = 64;

/// What a GPU computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE 754 single precision; never rounded to fewer bits on the way.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// As kernels' names have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub(super) const fn format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::F16 => WeightFormat::F16,
            Self::Bf16 => WeightFormat::BF16,
        }
    }

    pub(super) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            Self::Bf16 => bytes.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
        }
    }

    fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => {
                let words = bytes.as_chunks().0.iter();
                values
                    .iter_mut()
                    .zip(words)
                    .for_each(|(x, b)| *x = f32::from_le_bytes(*b));
            }
            Self::F16 => {
                let words = bytes.as_chunks().0.iter();
                values
                    .iter_mut()
                    .zip(words)
                    .for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32());
            }
            Self::Bf16 => {
                let words = bytes.as_chunks().0.iter();
                values
                    .iter_mut()
                    .zip(words)
                    .for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32());
            }
        }
    }
}

/// Activations.
pub struct CudaBuffer {
    memory: DeviceMemory,
    len: usize,
    element: Element,
}

impl CudaBuffer {
    pub(super) fn alloc(
        device: &Arc<Device>,
        element: Element,
        len: usize,
        what: &str,
    ) -> Result<Self, BackendError> {
        Ok(Self {
            memory: device.alloc(len * element.size(), what)?,
            len,
            element,
        })
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.element
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn check(&self, what: &str, needed: usize) -> Result<(), BackendError> {
        check_len(what, self.len, needed)
    }

    /// Rows of `width` that it has room for.
    pub(super) fn rows_of(&self, width: usize) -> usize {
        self.len / width.max(1)
    }

    pub(super) fn write(&mut self, device: &Device, values: &[f32]) -> Result<(), BackendError> {
        self.check("the destination", values.len())?;
        let mut bytes = Vec::with_capacity(values.len() * self.element.size());
        self.element.encode(values, &mut bytes);
        device.upload(&bytes, &self.memory, 0)
    }

    pub(super) fn read(&self, device: &Device, values: &mut [f32]) -> Result<(), BackendError> {
        self.check("the source", values.len())?;
        let mut bytes = vec![0; values.len() * self.element.size()];
        device.download(&self.memory, &mut bytes)?;
        self.element.decode(&bytes, values);
        Ok(())
    }
}

/// Token ids, positions, slots, block tables, lengths.
pub struct CudaIndices {
    memory: DeviceMemory,
    len: usize,
}

impl CudaIndices {
    pub(super) fn alloc(device: &Arc<Device>, len: usize) -> Result<Self, BackendError> {
        Ok(Self {
            memory: device.alloc(len * 4, "indices")?,
            len,
        })
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn check(&self, what: &str, needed: usize) -> Result<(), BackendError> {
        check_len(what, self.len, needed)
    }

    pub(super) fn write(&mut self, device: &Device, values: &[u32]) -> Result<(), BackendError> {
        self.check("the destination", values.len())?;
        device.upload(&bytes_of(values), &self.memory, 0)
    }

    /// Writes several by a kernel that fetches them from pinned memory: copies one after another take longer.
    pub(super) fn write_all(device: &Device, writes: &mut [(&[u32], &mut Self)]) -> Result<(), BackendError> {
        for writes in writes.chunks_mut(SPREAD_PARTS) {
            let (mut words, mut parts) = (Vec::new(), Vec::with_capacity(SPREAD_PARTS));
            for (values, indices) in &*writes {
                indices.check("the destination", values.len())?;
                words.extend_from_slice(values);
                parts.push((indices.address(), values.len()));
            }
            if words.len() * 4 <= MOST_STAGED_BYTES {
                device.staged(&bytes_of(&words), |from| spread(device, from, &parts))?;
            } else {
                writes
                    .iter_mut()
                    .try_for_each(|(values, indices)| indices.write(device, values))?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, device: &Device, values: &mut [u32]) -> Result<(), BackendError> {
        self.check("the source", values.len())?;
        let mut bytes = vec![0; values.len() * 4];
        device.download(&self.memory, &mut bytes)?;
        let words = bytes.as_chunks().0.iter();
        values
            .iter_mut()
            .zip(words)
            .for_each(|(x, b)| *x = u32::from_le_bytes(*b));
        Ok(())
    }
}

/// Copies words from `from` to each of up to [`SPREAD_PARTS`] addresses, as many as stand beside it: on the device, or in
/// pinned memory.
pub(super) fn spread(device: &Device, from: u64, parts: &[(u64, usize)]) -> Result<(), BackendError> {
    let (mut to, mut ends) = ([0; SPREAD_PARTS], [0; SPREAD_PARTS]);
    let mut words = 0;
    for (part, &(address, count)) in parts.iter().enumerate() {
        words += count;
        to[part] = address;
        ends[part..].fill(words as u64);
    }
    let launch = device
        .kernel("spread_indices")?
        .grid(words.div_ceil(SPREAD_THREADS).min(MOST_SPREAD_BLOCKS), 1, 1)
        .threads(SPREAD_THREADS)
        .wide(from);
    to.into_iter().chain(ends).fold(launch, Launch::wide).run()
}

pub(super) fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
