//! How attention over the paged cache is laid out on tensor cores.

use std::ops::Range;

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, CudaKvCache, Element,
        attention::{MAX_PARTS, MMA_GROUP},
        launch,
    },
    ops::{HeadLayout, PagedBatch},
};

/// Tokens a block for the tensor-core kernels.
const MMA_BLOCK: usize = 16;
/// Parts that one block joins.
const MAX_SPLITS: usize = 16;
/// Blocks of a cluster on any device that knows them.
const MAX_CLUSTER: usize = 8;
/// Warps of a block of the decode kernel.
const DECODE_WARPS: usize = 4;
/// Blocks of a sequence that a warp attends to, whatever else is in the call, where sums have one order: as in
/// attention_fixed.cu.
const FIXED_PART: usize = 8;
/// Blocks of a sequence from which on it is split more finely than a cluster.
const LONG_BLOCKS: usize = 512;

/// Of a block of the kernel for Hopper: lines (a position's query head), tokens of a tile, bytes of its rings.
const HOPPER_LINES: usize = 128;
const HOPPER_TOKENS: usize = 128;
const HOPPER_RING_BYTES: usize = 128 << 10;

/// Attention over the cache, checked.
pub(super) struct Paged<'a> {
    pub(super) qkv: &'a CudaBuffer,
    pub(super) heads: HeadLayout,
    pub(super) cache: &'a CudaKvCache,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) batch: &'a PagedBatch<'a, CudaIndices>,
    pub(super) scale: f32,
    /// 0 sees everything.
    pub(super) window: usize,
    pub(super) out: &'a CudaBuffer,
}

/// Whether the kernels for 16-bit elements, blocks of 16 and heads of 64 and 128 fit.
pub(super) fn fits_tensor_cores(qkv: &CudaBuffer, cache: &CudaKvCache) -> bool {
    qkv.element() != Element::F32
        && cache.element == qkv.element()
        && cache.layout.block_size == MMA_BLOCK
        && [64, 128].contains(&cache.layout.head_dim)
}

impl Paged<'_> {
    pub(super) fn fits_tensor_cores(&self) -> bool {
        fits_tensor_cores(self.qkv, self.cache)
    }

    fn group(&self) -> usize {
        self.heads.num_heads / self.heads.num_kv_heads
    }
}

impl CudaBackend {
    pub(super) fn paged_mma(&self, attention: &Paged<'_>) -> Result<(), BackendError> {
        let PagedBatch { num_seqs, rows, .. } = *attention.batch;
        // Without a row more than sequences, each has one; with one sequence of several rows, none has.
        let decodes = attention.group() <= MMA_GROUP && (rows == num_seqs || num_seqs > 1);
        if self.batch_invariant {
            return self.fixed(attention, decodes);
        }
        if decodes {
            self.decode(attention)?;
        }
        if rows > num_seqs || !decodes {
            self.prefill(attention, !decodes)?;
        }
        Ok(())
    }

    /// In one order of sums. Both kernels give a row the same bits.
    fn fixed(&self, attention: &Paged<'_>, decodes: bool) -> Result<(), BackendError> {
        let PagedBatch {
            num_seqs,
            rows,
            max_blocks,
            ..
        } = *attention.batch;
        let (group, kv_heads) = (attention.group(), attention.heads.num_kv_heads);
        let blocks = max_blocks.div_ceil(FIXED_PART).div_ceil(DECODE_WARPS);
        // As many sequences at once as there is room for the results of their parts.
        let room = MAX_PARTS * MMA_GROUP / (group * blocks.max(1) * DECODE_WARPS);
        let most = room.min(MAX_PARTS) / kv_heads;
        let decodes = decodes && most > 0;
        for first in (0..num_seqs).step_by(most.max(1)).filter(|_| decodes) {
            let count = most.min(num_seqs - first);
            self.mma_kernel_of("single", attention, first..first + count)?
                .grid(blocks, kv_heads, count)
                .wide(attention.cache.partial.address())
                .wide(attention.cache.arrived.address())
                .wide(attention.out.address())
                .run()?;
        }
        if rows > num_seqs || !decodes {
            self.prefill_tiles("many", attention, !decodes)?;
        }
        Ok(())
    }

    fn decode(&self, attention: &Paged<'_>) -> Result<(), BackendError> {
        let places = attention.batch.num_seqs * attention.heads.num_kv_heads;
        let sms = self.device.facts.num_sms;
        // A split has two blocks for each warp: what joins many small ones costs more than they save. So does joining
        // more than a cluster, unless they are long.
        let max_blocks = attention.batch.max_blocks;
        let most = if max_blocks > LONG_BLOCKS {
            MAX_SPLITS
        } else {
            MAX_CLUSTER
        };
        let useful = max_blocks.div_ceil(2 * DECODE_WARPS).min(most);
        let splits = (sms / places.max(1))
            .min(useful)
            .min(MAX_PARTS / places.max(1))
            .max(1);
        // Few sequences leave room for the products before and after; with many, what is read here counts.
        let stages = if 2 * places >= sms { 3 } else { 2 };
        let (group, head_dim) = (attention.group(), attention.heads.head_dim);
        let clustered = self.device.facts.capability >= (9, 0) && splits <= MAX_CLUSTER;
        let ring = DECODE_WARPS * stages * 2 * MMA_BLOCK * head_dim * attention.qkv.element().size();
        self.mma_kernel(&format!("decode_{stages}"), attention)?
            .grid(splits, attention.heads.num_kv_heads, attention.batch.num_seqs)
            .cluster(if clustered { splits } else { 1 })
            .shared(ring.max((DECODE_WARPS * head_dim + splits * (head_dim + 2)) * group * 4))
            .wide(attention.cache.partial.address())
            .wide(attention.cache.arrived.address())
            .wide(attention.out.address())
            .run()
    }

    fn prefill(&self, attention: &Paged<'_>, singles: bool) -> Result<(), BackendError> {
        // Its products are of this generation alone.
        match self.device.facts.capability {
            (9, 0) => self.prefill_hopper(attention, singles),
            _ => self.prefill_tiles("prefill", attention, singles),
        }
    }

    /// Tiles of 64 lines a block.
    fn prefill_tiles(&self, kind: &str, attention: &Paged<'_>, singles: bool) -> Result<(), BackendError> {
        let lines = attention.batch.rows * attention.group();
        self.mma_kernel(kind, attention)?
            .grid(
                lines.div_ceil(64) + attention.batch.num_seqs,
                attention.heads.num_kv_heads,
                1,
            )
            .int(usize::from(singles))
            .wide(attention.out.address())
            .run()
    }

    fn prefill_hopper(&self, attention: &Paged<'_>, singles: bool) -> Result<(), BackendError> {
        let lines = attention.batch.rows * attention.group();
        let line_bytes = attention.heads.head_dim * attention.qkv.element().size();
        let stages = HOPPER_RING_BYTES / (2 * HOPPER_TOKENS * line_bytes);
        self.mma_kernel("hopper", attention)?
            .grid(
                attention.heads.num_kv_heads,
                lines.div_ceil(HOPPER_LINES) + attention.batch.num_seqs,
                1,
            )
            .threads(3 * 128)
            // Behind queries and rings, four barriers a stage.
            .shared(HOPPER_LINES * line_bytes + HOPPER_RING_BYTES + stages * 4 * 8)
            .int(usize::from(singles))
            .wide(attention.out.address())
            .run()
    }

    /// The kernel with the arguments that all have.
    fn mma_kernel(&self, kind: &str, attention: &Paged<'_>) -> Result<launch::Launch<'_>, BackendError> {
        self.mma_kernel_of(kind, attention, 0..attention.batch.num_seqs)
    }

    /// As [`Self::mma_kernel`], for some of the sequences.
    fn mma_kernel_of(
        &self,
        kind: &str,
        attention: &Paged<'_>,
        seqs: Range<usize>,
    ) -> Result<launch::Launch<'_>, BackendError> {
        let of_seqs = |indices: &CudaIndices, each: usize| indices.address() + (4 * each * seqs.start) as u64;
        let Paged {
            qkv, heads, batch, ..
        } = attention;
        let name = format!("attention_{kind}_{}_{}", heads.head_dim, qkv.element().name());
        Ok(self
            .device
            .kernel(&name)?
            .wide(qkv.address())
            .wide(attention.keys)
            .wide(attention.values)
            .wide(of_seqs(batch.cu_seqlens_q, 1))
            .wide(of_seqs(batch.context_lens, 1))
            .wide(of_seqs(batch.block_tables, batch.max_blocks))
            .int(batch.max_blocks)
            .int(seqs.len())
            .int(heads.num_heads)
            .int(heads.num_kv_heads)
            .float(attention.scale * std::f32::consts::LOG2_E)
            .int(attention.window))
    }
}
