//! The contract between the layers and a device.

use std::time::Duration;

use crate::{
    ops::{
        ActivationOps, AttentionOps, CollectiveOps, LinearOps, NormOps, Normed, PoolingOps, Rank, SamplingOps,
    },
    tensor::{HostTensor, WeightFormat},
};

/// A device that can run the models: a closed list of mathematics, no model names.
///
/// Shapes are row-major; a comment `(rows, width)` beside an argument is a count of elements. Buffers are
/// allocated once, for the largest step; an operation reads and writes only the first `rows` rows of them.
///
/// Every operation gives the same bits for a row whatever the other rows of the call are, however many
/// there are, and however a sequence was cut into chunks: a request's tokens do not depend on its company. (On a GPU that
/// is chosen, as it costs speed.)
pub trait Backend:
    LinearOps
    + NormOps
    + AttentionOps
    + ActivationOps
    + PoolingOps
    + SamplingOps
    + CollectiveOps
    + Send
    + Sync
    + 'static
{
    /// Name for logs and the model card: `cpu`, `cuda`.
    fn device_name(&self) -> &'static str;

    /// Which of the devices that share a model this is; weights are loaded for it.
    fn rank(&self) -> Rank {
        Rank::ALONE
    }

    /// Says that this rank takes no further part: ranks that wait for it, or will, fail.
    fn leave(&self) {}

    /// An activation buffer of `len` elements, zeroed.
    fn alloc(&self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// As [`Self::alloc`], in single precision whatever the device computes with: for what is summed over layers,
    /// and for logits.
    fn alloc_f32(&self, len: usize) -> Result<Self::Buffer, BackendError> {
        self.alloc(len)
    }

    /// Room for the rows that a norm leaves, `(rows, width)`.
    fn alloc_normed(&self, rows: usize, width: usize) -> Result<Normed<Self>, BackendError> {
        Ok(Normed::new(self.alloc(rows * width)?, self.alloc(0)?))
    }

    /// A buffer of `len` indices, zeroed.
    fn alloc_indices(&self, len: usize) -> Result<Self::Indices, BackendError>;

    /// Copies `src` to the front of `dst`.
    fn write(&self, src: &[f32], dst: &mut Self::Buffer) -> Result<(), BackendError>;

    /// Copies `src` to the front of `dst`.
    fn write_indices(&self, src: &[u32], dst: &mut Self::Indices) -> Result<(), BackendError>;

    /// Copies each first to the front of its second, as [`Self::write_indices`] does; all at once where that pays.
    fn write_all_indices(&self, writes: &mut [(&[u32], &mut Self::Indices)]) -> Result<(), BackendError> {
        writes
            .iter_mut()
            .try_for_each(|(src, dst)| self.write_indices(src, dst))
    }

    /// Copies the front of `src` into `dst`: for results and tests, not for use within a step.
    fn read_into(&self, src: &Self::Buffer, dst: &mut [f32]) -> Result<(), BackendError>;

    /// Copies the front of `src` into `dst`.
    fn read_indices_into(&self, src: &Self::Indices, dst: &mut [u32]) -> Result<(), BackendError>;

    /// Packs a weight matrix: `parts` have the same `cols` and are stacked along their rows (q, k and v;
    /// gate and up), each in its own format.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a format that this device has no kernel for, [`BackendError::Shape`]
    /// for parts that do not stack or whose bytes do not fit their shape.
    fn prepare_weight(&self, parts: &[HostTensor]) -> Result<Self::Weight, BackendError>;

    /// Waits until what was prepared is on the device; whoever uses it before waits by itself.
    ///
    /// # Errors
    /// What went wrong on the way.
    fn await_weights(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Uploads vectors (norm weights, biases), concatenated.
    ///
    /// # Errors
    /// As [`Self::prepare_weight`].
    fn prepare_vector(&self, parts: &[HostTensor]) -> Result<Self::Buffer, BackendError>;

    /// A rotary table of cosines and sines for positions `0..max_positions`.
    /// `inv_freq` holds `head_dim / 2` inverse frequencies, scaling already applied.
    fn prepare_rope(&self, inv_freq: &[f32], max_positions: usize) -> Result<Self::Buffer, BackendError>;

    /// The element type in which keys and values of such weights are best kept.
    fn kv_dtype(&self, weights: KvPrecision) -> KvDtype {
        match weights {
            KvPrecision::Exact => KvDtype::F32,
            KvPrecision::Quantized => KvDtype::F16,
        }
    }

    /// Memory for the keys and values of all layers.
    fn alloc_kv_cache(&self, layout: &KvLayout) -> Result<Self::KvCache, BackendError>;

    /// Bytes that `prepare_weight` has allocated beyond the checkpoint's own (mapped) bytes, and buffers.
    fn allocated_bytes(&self) -> usize;

    /// Bytes of the device's own memory that are free; `None` where it has none of its own.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Bytes of the device's own memory; `None` where it has none of its own.
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether the host gets on while the device computes, so that it pays to ask for a step before the one before it
    /// has brought its results.
    fn runs_beside_host(&self) -> bool {
        false
    }

    /// Says that the device's time for `step` counts from what is asked for next.
    fn begin_step(&self, step: &mut Self::Step) -> Result<(), BackendError>;

    /// Says that `step` is asked for in full, and asks for the front `count` of what it has drawn; does not wait.
    fn end_step(
        &self,
        step: &mut Self::Step,
        drawn: &Self::Indices,
        count: usize,
    ) -> Result<(), BackendError>;

    /// Waits for `step` and puts what it has drawn into `tokens`.
    ///
    /// # Errors
    /// What went wrong on the device since it last answered.
    fn finish_step(&self, step: &mut Self::Step, tokens: &mut Vec<u32>) -> Result<Duration, BackendError>;

    /// Runs `launch`, a fixed sequence of operations on buffers that stay where they are: a device may record
    /// it and play it back whenever the same `shape` comes again. Nothing in it may depend on the host but `shape`.
    fn run_recorded(
        &self,
        recorded: &mut Self::Recorded,
        shape: StepShape,
        launch: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let _ = (recorded, shape);
        launch()
    }
}

/// What distinguishes two steps over the same buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// Sequences, each with one token.
    pub num_seqs: usize,
    /// Row stride of the block tables.
    pub max_blocks: usize,
}

/// What keys and values are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvPrecision {
    /// Dense weights.
    Exact,
    /// Weights whose own error is larger than that of half precision.
    Quantized,
}

/// The associated types, apart so that every group of operations can name them.
pub trait BackendTypes {
    /// Activations, in the element type that the device computes with.
    type Buffer: Send + Sync;
    /// Token ids, positions, slots, block tables, lengths.
    type Indices: Send + Sync;
    /// A matrix packed by [`Backend::prepare_weight`].
    type Weight: Send + Sync;
    /// Keys and values of all layers, in blocks.
    type KvCache: Send + Sync;
    /// Steps recorded by [`Backend::run_recorded`]; they belong to the buffers that they were recorded with.
    type Recorded: Default + Send;
    /// A step under way, from [`Backend::begin_step`] to [`Backend::finish_step`]; may be used again and again.
    type Step: Default + Send;
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// Exact where activations are f32.
    F32,
    /// Half the bytes: half precision, or bfloat16 on a device that computes with it.
    F16,
}

/// Shape of a paged KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub num_layers: usize,
    /// Heads of keys and of values.
    pub num_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Element type.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Bytes of one block over all layers, keys and values.
    pub const fn block_bytes(&self) -> usize {
        let element = match self.dtype {
            KvDtype::F32 => 4,
            KvDtype::F16 => 2,
        };
        2 * self.num_layers * self.num_kv_heads * self.head_dim * self.block_size * element
    }
}

/// Why a device refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// An allocation that did not fit.
    #[error("out of memory on {device}: {needed} bytes needed for {what}, {available} available")]
    OutOfMemory {
        /// Device name.
        device: &'static str,
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        needed: usize,
        /// Bytes that were free.
        available: usize,
    },
    /// The device or its driver failed.
    #[error("{device}: {what}")]
    Device {
        /// Device name.
        device: &'static str,
        /// What was asked, and the answer.
        what: String,
    },
    /// Shapes or byte counts that contradict one another.
    #[error("shape mismatch: {0}")]
    Shape(String),
    /// A format without a kernel on this device.
    #[error("{format} weights are not supported on {device}: {reason}")]
    Unsupported {
        /// The checkpoint's format.
        format: WeightFormat,
        /// Device name.
        device: &'static str,
        /// What is missing.
        reason: &'static str,
    },
}
