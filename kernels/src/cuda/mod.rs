//! The CUDA backend: an NVIDIA GPU, compute capability 8.0 or higher; or several that share a model, a backend each.
//!
//! The driver and cuBLASLt are loaded at run time. Kernels are in `cuda/*.cu`, compiled when this crate is built.
//! Everything runs in the order of one stream; the host waits only where it reads results. Activations and weight
//! matrices are of one [`Element`] type; norm weights, biases, residual sums and logits are f32.
//!
//! Indices (token ids, slots, block tables, positions) are not checked here, which would mean to wait for them: the
//! runtime builds them from what it has checked.
#![allow(unsafe_code)]

mod activation;
mod attention;
mod buffer;
mod clusters;
mod collective;
mod deferred;
mod device;
mod few;
mod gated_hopper;
mod group;
mod int4;
mod int4_plan;
mod int4_stream;
mod launch;
mod linear;
mod matmul;
mod nccl;
mod norm;
mod paged;
mod pooling;
mod q8;
mod recorded;
mod recordings;
mod rope_rows;
mod sampling;
mod scratch;
mod step;
mod tally;
mod tensor_map;
mod unavailable;
mod upload;
mod weight;

use std::{sync::Arc, thread, time::Duration};

use crate::{
    backend::{Backend, BackendError, BackendTypes, KvDtype, KvLayout, KvPrecision, StepShape},
    ops::{Normed, Rank},
    tensor::HostTensor,
};

pub use attention::CudaKvCache;
pub use buffer::{CudaBuffer, CudaIndices, Element};
pub use device::{GpuFacts, given_back};
pub use group::{Link, probe_ranks};
pub use recorded::Recorded;
pub use step::CudaStep;
pub use unavailable::CudaUnavailable;
pub use weight::CudaWeight;

use device::Device;

/// Name of this device in errors, logs and the model card.
pub const DEVICE: &str = "cuda";

/// Threads that compute the rotary table.
const ROPE_THREADS: usize = 8;

/// What GPU `ordinal` is, if it can be used.
///
/// # Errors
/// [`CudaUnavailable`].
pub fn probe(ordinal: usize) -> Result<GpuFacts, CudaUnavailable> {
    device::probe(ordinal).map(|(_, facts)| facts)
}

/// A GPU as a device.
pub struct CudaBackend {
    device: Arc<Device>,
    element: Element,
    matmul: Option<matmul::Matmul>,
    sampling: sampling::Scratch,
    /// Of quantized weights.
    scratch: scratch::Scratch,
    /// Whether a row's bits depend on nothing but the row.
    batch_invariant: bool,
    /// Where this is one of several ranks.
    member: Option<group::Member>,
}

impl CudaBackend {
    /// GPU `ordinal`, computing with `element`.
    ///
    /// # Errors
    /// [`CudaUnavailable`]: no driver, no such GPU, or one that is too old.
    pub fn new(ordinal: usize, element: Element) -> Result<Self, CudaUnavailable> {
        let device = Device::open(ordinal)?;
        Ok(Self {
            matmul: matmul::Matmul::open(&device)?,
            device,
            element,
            sampling: sampling::Scratch::default(),
            scratch: scratch::Scratch::default(),
            batch_invariant: false,
            member: None,
        })
    }

    /// Whether every operation is to give a row the same bits whatever the other rows of the call are, however many there
    /// are, and however its sequence was cut. Without it the fastest way for as many rows is taken, with sums in its order.
    #[must_use]
    pub fn with_batch_invariance(self, batch_invariant: bool) -> Self {
        Self {
            batch_invariant,
            ..self
        }
    }

    /// What the GPU is.
    pub fn facts(&self) -> &GpuFacts {
        &self.device.facts
    }

    /// Whether large products run on cuBLASLt; without its library they are cut into small ones, which is slow.
    pub fn has_matmul(&self) -> bool {
        self.matmul.is_some()
    }

    /// Waits until everything asked for is done: for measurements.
    ///
    /// # Errors
    /// What went wrong on the device since it last answered.
    pub fn synchronize(&self) -> Result<(), BackendError> {
        let waited = self.device.synchronize();
        self.check_ranks()?;
        waited
    }

    fn check_ranks(&self) -> Result<(), BackendError> {
        self.member.as_ref().map_or(Ok(()), group::Member::check)
    }
}

impl BackendTypes for CudaBackend {
    type Buffer = CudaBuffer;
    type Indices = CudaIndices;
    type Weight = CudaWeight;
    type KvCache = CudaKvCache;
    type Recorded = Recorded;
    type Step = CudaStep;
}

impl Backend for CudaBackend {
    fn device_name(&self) -> &'static str {
        DEVICE
    }

    fn rank(&self) -> Rank {
        self.member.as_ref().map_or(Rank::ALONE, |member| member.rank)
    }

    fn leave(&self) {
        if let Some(member) = &self.member {
            member.leave();
        }
    }

    fn alloc(&self, len: usize) -> Result<CudaBuffer, BackendError> {
        CudaBuffer::alloc(&self.device, self.element, len, "activations")
    }

    fn alloc_f32(&self, len: usize) -> Result<CudaBuffer, BackendError> {
        CudaBuffer::alloc(&self.device, Element::F32, len, "activations")
    }

    fn alloc_normed(&self, rows: usize, width: usize) -> Result<Normed<Self>, BackendError> {
        Ok(Normed::new(
            self.alloc(rows * width)?,
            self.alloc_f32(deferred::SQUARES)?,
        ))
    }

    fn alloc_indices(&self, len: usize) -> Result<CudaIndices, BackendError> {
        CudaIndices::alloc(&self.device, len)
    }

    fn write(&self, src: &[f32], dst: &mut CudaBuffer) -> Result<(), BackendError> {
        dst.write(&self.device, src)
    }

    fn write_indices(&self, src: &[u32], dst: &mut CudaIndices) -> Result<(), BackendError> {
        dst.write(&self.device, src)
    }

    fn write_all_indices(&self, writes: &mut [(&[u32], &mut CudaIndices)]) -> Result<(), BackendError> {
        CudaIndices::write_all(&self.device, writes)
    }

    fn read_into(&self, src: &CudaBuffer, dst: &mut [f32]) -> Result<(), BackendError> {
        let read = src.read(&self.device, dst);
        self.check_ranks()?;
        read
    }

    fn read_indices_into(&self, src: &CudaIndices, dst: &mut [u32]) -> Result<(), BackendError> {
        let read = src.read(&self.device, dst);
        self.check_ranks()?;
        read
    }

    /// Groups of 4 bits, and Q8_0, stay as they are beside 16-bit activations; any other format becomes the element type.
    fn prepare_weight(&self, parts: &[HostTensor]) -> Result<CudaWeight, BackendError> {
        if let Some(weight) = int4::prepare(self, parts)? {
            return Ok(weight);
        }
        match q8::prepare(self, parts)? {
            Some(weight) => Ok(weight),
            None => CudaWeight::prepare(&self.device, self.element, parts),
        }
    }

    fn await_weights(&self) -> Result<(), BackendError> {
        self.device.settle()
    }

    fn prepare_vector(&self, parts: &[HostTensor]) -> Result<CudaBuffer, BackendError> {
        weight::prepare_vector(&self.device, parts)
    }

    fn prepare_rope(&self, inv_freq: &[f32], max_positions: usize) -> Result<CudaBuffer, BackendError> {
        let width = inv_freq.len();
        let mut table = vec![0.0; max_positions * 2 * width];
        // Millions of them, while the weights are on their way.
        let share = max_positions.div_ceil(ROPE_THREADS).max(1);
        thread::scope(|scope| {
            for (index, part) in table.chunks_mut((share * 2 * width).max(1)).enumerate() {
                scope.spawn(move || {
                    for (at, row) in part.chunks_mut(2 * width).enumerate() {
                        let position = (index * share + at) as f32;
                        let (cosines, sines) = row.split_at_mut(width);
                        for ((cosine, sine), freq) in cosines.iter_mut().zip(sines).zip(inv_freq) {
                            let angle = f64::from(position * freq);
                            (*cosine, *sine) = (angle.cos() as f32, angle.sin() as f32);
                        }
                    }
                });
            }
        });
        let mut buffer = CudaBuffer::alloc(&self.device, Element::F32, table.len(), "the rotary table")?;
        buffer.write(&self.device, &table)?;
        Ok(buffer)
    }

    fn kv_dtype(&self, _: KvPrecision) -> KvDtype {
        match self.element {
            Element::F32 => KvDtype::F32,
            Element::F16 | Element::Bf16 => KvDtype::F16,
        }
    }

    fn alloc_kv_cache(&self, layout: &KvLayout) -> Result<CudaKvCache, BackendError> {
        CudaKvCache::alloc(&self.device, layout, self.element)
    }

    fn allocated_bytes(&self) -> usize {
        self.device.allocated_bytes()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.device.free_bytes().ok().map(|bytes| bytes as u64)
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.device.facts.memory_bytes as u64)
    }

    fn runs_beside_host(&self) -> bool {
        true
    }

    fn begin_step(&self, step: &mut CudaStep) -> Result<(), BackendError> {
        step.begin(&self.device)
    }

    fn end_step(&self, step: &mut CudaStep, drawn: &CudaIndices, count: usize) -> Result<(), BackendError> {
        step.end(&self.device, drawn, count)
    }

    fn finish_step(&self, step: &mut CudaStep, tokens: &mut Vec<u32>) -> Result<Duration, BackendError> {
        let took = step.finish(tokens)?;
        self.check_ranks()?;
        Ok(took)
    }

    fn run_recorded(
        &self,
        recorded: &mut Recorded,
        shape: StepShape,
        launch: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let meet = || self.member.as_ref().map_or(Ok(()), group::Member::meet);
        recorded.run(&self.device, shape, launch, &meet)
    }
}
