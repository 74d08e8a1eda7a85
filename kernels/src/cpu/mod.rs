//! The CPU backend.
//!
//! Activations are f32 in host memory. Work is cut into tasks that a fork-join [`ThreadPool`] shares out;
//! which thread runs a task never changes a result.

mod activation;
mod arena;
mod attention;
mod buffer;
mod collective;
pub mod dequant;
mod kv_cache;
mod lanes;
mod linear;
mod norm;
mod philox;
mod pool;
mod pooling;
mod sampling;
mod simd;
mod step;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    backend::{Backend, BackendError, BackendTypes, KvLayout},
    ops::Rank,
    tensor::{HostTensor, WeightFormat},
};

pub use buffer::AlignedBuf;
pub use kv_cache::{CpuKvCache, KvSide, KvStorage};
pub use linear::CpuWeight;
pub use pool::ThreadPool;
#[cfg(feature = "cuda")]
pub(crate) use sampling::check_mask;
pub use simd::{Isa, detect};
pub use step::CpuStep;

/// Name of this device in errors, logs and the model card.
pub const DEVICE: &str = "cpu";

/// Activations: f32, 64-byte aligned.
pub type CpuBuffer = AlignedBuf<f32>;

/// Token ids, positions, slots, block tables, lengths.
pub type CpuIndices = AlignedBuf<u32>;

/// The CPU as a device.
pub struct CpuBackend {
    pool: ThreadPool,
    isa: Isa,
    allocated: AtomicUsize,
    /// Packed weights.
    arena: arena::Arena,
    /// Quantized activations of the product that runs.
    scratch: Mutex<AlignedBuf<u8>>,
    /// Its activations in the order of the weight's columns, where that is another.
    gathered: Mutex<AlignedBuf<f32>>,
    /// Where this is one of several ranks.
    member: Option<collective::Member>,
}

impl CpuBackend {
    /// A backend that computes with `threads` threads, the caller's included; 0 counts as 1.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, detect())
    }

    /// As [`Self::new`], with an instruction set of the caller's choice, for tests and benchmarks.
    ///
    /// # Panics
    /// If this processor lacks `isa`.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        assert!(isa <= detect(), "{isa} is not available on this processor");
        Self {
            pool: ThreadPool::new(threads.max(1)),
            isa,
            allocated: AtomicUsize::new(0),
            arena: arena::Arena::default(),
            scratch: Mutex::new(AlignedBuf::empty()),
            gathered: Mutex::new(AlignedBuf::empty()),
            member: None,
        }
    }

    /// The threads that share the work.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// The instruction set that the kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn scratch(&self) -> MutexGuard<'_, AlignedBuf<u8>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gathered(&self) -> MutexGuard<'_, AlignedBuf<f32>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alloc_zeroed<T: buffer::Zeroable>(
        &self,
        len: usize,
        what: &str,
    ) -> Result<AlignedBuf<T>, BackendError> {
        let buffer = AlignedBuf::zeroed(len).ok_or_else(|| BackendError::OutOfMemory {
            device: DEVICE,
            what: what.to_owned(),
            needed: len.saturating_mul(size_of::<T>()),
            available: buffer::available_memory_bytes(),
        })?;
        self.allocated.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        Ok(buffer)
    }
}

impl BackendTypes for CpuBackend {
    type Buffer = CpuBuffer;
    type Indices = CpuIndices;
    type Weight = CpuWeight;
    type KvCache = CpuKvCache;
    type Recorded = ();
    type Step = CpuStep;
}

impl Backend for CpuBackend {
    fn device_name(&self) -> &'static str {
        DEVICE
    }

    fn rank(&self) -> Rank {
        self.member.as_ref().map_or(Rank::ALONE, |member| member.rank)
    }

    fn leave(&self) {
        if let Some(member) = &self.member {
            member.group.leave(member.rank);
        }
    }

    fn alloc(&self, len: usize) -> Result<CpuBuffer, BackendError> {
        self.alloc_zeroed(len, "activations")
    }

    fn alloc_indices(&self, len: usize) -> Result<CpuIndices, BackendError> {
        self.alloc_zeroed(len, "indices")
    }

    fn write(&self, src: &[f32], dst: &mut CpuBuffer) -> Result<(), BackendError> {
        copy_front(src, dst, src.len())
    }

    fn write_indices(&self, src: &[u32], dst: &mut CpuIndices) -> Result<(), BackendError> {
        copy_front(src, dst, src.len())
    }

    fn read_into(&self, src: &CpuBuffer, dst: &mut [f32]) -> Result<(), BackendError> {
        copy_front(src, dst, dst.len())
    }

    fn read_indices_into(&self, src: &CpuIndices, dst: &mut [u32]) -> Result<(), BackendError> {
        copy_front(src, dst, dst.len())
    }

    fn prepare_weight(&self, parts: &[HostTensor]) -> Result<CpuWeight, BackendError> {
        let weight = CpuWeight::prepare(self, parts)?;
        self.allocated.fetch_add(weight.packed_bytes(), Ordering::Relaxed);
        Ok(weight)
    }

    fn prepare_vector(&self, parts: &[HostTensor]) -> Result<CpuBuffer, BackendError> {
        for part in parts {
            check_host_tensor(part)?;
        }
        let len = parts.iter().map(|part| part.rows * part.cols).sum();
        let mut vector = self.alloc_zeroed(len, "a vector of the model")?;
        let mut rest: &mut [f32] = &mut vector;
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.rows * part.cols);
            dequant::dequantize_into(part.format, &part.bytes, head);
            rest = tail;
        }
        Ok(vector)
    }

    /// Row `p` holds `head_dim / 2` cosines, then as many sines.
    ///
    /// The angle is the f32 product of position and frequency, as the checkpoints' own training code has
    /// it; its rounding is part of what a model at a far position was trained with.
    fn prepare_rope(&self, inv_freq: &[f32], max_positions: usize) -> Result<CpuBuffer, BackendError> {
        let half = inv_freq.len();
        let mut table = self.alloc_zeroed(max_positions * 2 * half, "the rotary table")?;
        for (position, row) in table.chunks_exact_mut((2 * half).max(1)).enumerate() {
            let (cos, sin) = row.split_at_mut(half);
            for ((c, s), freq) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let angle = f64::from(position as f32 * freq);
                (*c, *s) = (angle.cos() as f32, angle.sin() as f32);
            }
        }
        Ok(table)
    }

    /// Blocks that were never written cost no memory.
    fn alloc_kv_cache(&self, layout: &KvLayout) -> Result<CpuKvCache, BackendError> {
        let cache = CpuKvCache::alloc(layout)?;
        let bytes = layout.block_bytes() * layout.num_blocks;
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok(cache)
    }

    fn allocated_bytes(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    fn begin_step(&self, step: &mut CpuStep) -> Result<(), BackendError> {
        step.begin();
        Ok(())
    }

    fn end_step(&self, step: &mut CpuStep, drawn: &CpuIndices, count: usize) -> Result<(), BackendError> {
        check_len("end_step: drawn", drawn.len(), count)?;
        step.end(&drawn[..count]);
        Ok(())
    }

    fn finish_step(&self, step: &mut CpuStep, tokens: &mut Vec<u32>) -> Result<Duration, BackendError> {
        Ok(step.finish(tokens))
    }
}

/// Refuses a tensor whose bytes do not fit its shape.
pub(crate) fn check_host_tensor(tensor: &HostTensor) -> Result<(), BackendError> {
    let HostTensor {
        format, rows, cols, ..
    } = *tensor;
    let row_bytes = row_bytes(format, cols)?;
    let expected = row_bytes.checked_mul(rows);
    if expected != Some(tensor.bytes.len()) {
        return Err(BackendError::Shape(format!(
            "a {format} matrix of {rows} x {cols} takes {rows} x {row_bytes} bytes, not {}",
            tensor.bytes.len()
        )));
    }
    match &tensor.order {
        Some(order) if !is_permutation(order, cols) => Err(BackendError::Shape(format!(
            "the order of {} columns is no permutation of {cols}",
            order.len()
        ))),
        _ => Ok(()),
    }
}

fn is_permutation(order: &[u32], len: usize) -> bool {
    let mut seen = vec![false; len];
    let first_time = |&i: &u32| {
        seen.get_mut(i as usize)
            .is_some_and(|seen| !std::mem::replace(seen, true))
    };
    order.len() == len && order.iter().all(first_time)
}

/// Bytes of a row of `cols` elements.
pub(crate) fn row_bytes(format: WeightFormat, cols: usize) -> Result<usize, BackendError> {
    format.bytes_of(cols).ok_or_else(|| {
        let block = format.block_len();
        BackendError::Shape(format!(
            "{cols} columns are no multiple of {format}'s block of {block}"
        ))
    })
}

/// Refuses a buffer that is shorter than an operation needs.
pub(crate) fn check_len(what: &str, len: usize, needed: usize) -> Result<(), BackendError> {
    if len < needed {
        return Err(BackendError::Shape(format!(
            "{what} holds {len} elements, {needed} needed"
        )));
    }
    Ok(())
}

fn copy_front<T: Copy>(src: &[T], dst: &mut [T], len: usize) -> Result<(), BackendError> {
    check_len("the source", src.len(), len)?;
    check_len("the destination", dst.len(), len)?;
    dst[..len].copy_from_slice(&src[..len]);
    Ok(())
}

/// A [`BackendError::Shape`].
pub(crate) fn shape_error(message: String) -> BackendError {
    BackendError::Shape(message)
}

/// The `num_seqs + 1` row offsets of sequences laid end to end, if they start at 0 and never decrease.
pub(crate) fn check_cu_seqlens<'a>(
    what: &str,
    cu_seqlens: &'a [u32],
    num_seqs: usize,
) -> Result<&'a [u32], BackendError> {
    check_len(what, cu_seqlens.len(), num_seqs + 1)?;
    let offsets = &cu_seqlens[..=num_seqs];
    if offsets[0] != 0 || !offsets.is_sorted() {
        return Err(shape_error(format!(
            "{what} must start at 0 and never decrease, not {offsets:?}"
        )));
    }
    Ok(offsets)
}
