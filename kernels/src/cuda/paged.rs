//! How attention over the paged cache is laid out on tensor cores.

use std::ops::Range;

use crate::{
    backend::BackendError,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, CudaKvCache, Element,
        attention::{MAX_PARTS, MMA_GROUP, check_head_layout},
        launch,
        norm::same_element,
    },
    ops::{HeadLayout, PagedBatch, PagedView, QkNormWeights, RotaryStep},
};

/// Tokens a block for the tensor-core kernels.
const MMA_BLOCK: usize = 16;
/// Parts that one block joins.
const MAX_SPLITS: usize = 16;
/// Blocks of a cluster on any device that knows them.
const MAX_CLUSTER: usize = 8;
/// Warps of a block of the kernel for sequences with one row whose sums have one order.
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

/// What makes queries of a projection, and where its keys and values go; checked.
pub(super) struct Fresh<'a> {
    pub(super) norm: Option<QkNormWeights<'a, CudaBuffer>>,
    pub(super) rotary: RotaryStep<'a, CudaBuffer, CudaIndices>,
    pub(super) slots: &'a CudaIndices,
}

impl<'a> Paged<'a> {
    pub(super) fn new(
        (qkv, heads): (&'a CudaBuffer, HeadLayout),
        (cache, layer): (&'a CudaKvCache, usize),
        seen: &PagedView<'a, CudaIndices>,
        out: &'a CudaBuffer,
    ) -> Result<Self, BackendError> {
        let (what, batch) = ("paged_attention", seen.batch);
        check_head_layout(what, heads)?;
        cache.check_heads(what, heads)?;
        qkv.check(what, batch.rows * heads.qkv_width())?;
        out.check(what, batch.rows * heads.q_width())?;
        batch.cu_seqlens_q.check(what, batch.num_seqs + 1)?;
        batch.context_lens.check(what, batch.num_seqs)?;
        batch
            .block_tables
            .check(what, batch.num_seqs * batch.max_blocks)?;
        same_element(what, qkv, out)?;
        let (keys, values) = cache.layer(layer)?;
        Ok(Self {
            qkv,
            heads,
            cache,
            keys,
            values,
            batch,
            scale: seen.scale,
            window: seen.window.unwrap_or(0),
            out,
        })
    }

    /// Whether every sequence has one row, for the kernel that decodes.
    pub(super) fn decodes_on_tensor_cores(&self) -> bool {
        self.fits_tensor_cores() && self.group() <= MMA_GROUP && self.batch.rows == self.batch.num_seqs
    }

    pub(super) fn fits_tensor_cores(&self) -> bool {
        fits_tensor_cores(self.qkv, self.cache)
    }

    fn group(&self) -> usize {
        self.heads.num_heads / self.heads.num_kv_heads
    }
}

impl Fresh<'_> {
    /// Its arguments.
    fn give<'l>(&self, launch: launch::Launch<'l>) -> launch::Launch<'l> {
        let norm = self.norm.as_ref();
        launch
            .wide(norm.map_or(0, |norm| norm.q.address()))
            .wide(norm.map_or(0, |norm| norm.k.address()))
            .float(norm.map_or(0.0, |norm| norm.eps))
            .wide(self.rotary.table.address())
            .wide(self.rotary.positions.address())
            .wide(self.slots.address())
    }
}

/// How the kernel for sequences with one row is laid out.
struct DecodePlan {
    /// Blocks that share a sequence's key head, and how many of them are a cluster.
    splits: usize,
    cluster: usize,
    /// Of a block, and blocks of the cache in the ring of each.
    warps: usize,
    stages: usize,
}

impl DecodePlan {
    /// Of one key head, elements of 16 bits; as attention_decode.cu lays it out.
    fn shared_bytes(&self, (group, head_dim): (usize, usize), fresh: bool) -> usize {
        let Self {
            warps,
            stages,
            cluster,
            ..
        } = *self;
        let ring = warps * stages * 2 * MMA_BLOCK * head_dim * 2;
        // Queries, padded to different banks, a key and a value.
        let made = if fresh {
            (group * (head_dim + 8) + 2 * head_dim) * 2
        } else {
            0
        };
        // Of all warps of the cluster what one block joins: columns in eights, and a largest score and a sum of each line.
        let columns = (head_dim / 8).div_ceil(cluster) * 8;
        let joined = group * (warps * cluster * columns * 4 + MAX_CLUSTER * warps * 8);
        let scratch = warps * group * head_dim * 4;
        match (cluster, warps * stages) {
            (1, _) => (ring + made).max(joined),
            (_, 0..=4) => ring + made + joined,
            _ => (ring + made).max(joined + scratch),
        }
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
            self.decode(attention, None)?;
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

    /// Attention of sequences with one row; of `fresh` ones, which are not yet in the cache, whatever they are.
    pub(super) fn decode(
        &self,
        attention: &Paged<'_>,
        fresh: Option<&Fresh<'_>>,
    ) -> Result<(), BackendError> {
        let plan = self.decode_plan(attention);
        let (group, head_dim) = (attention.group(), attention.heads.head_dim);
        let kind = if fresh.is_some() { "fresh" } else { "decode" };
        let (warps, stages) = (plan.warps, plan.stages);
        let launch = self
            .mma_kernel(&format!("{kind}_{warps}_{stages}"), attention)?
            .grid(
                plan.splits,
                attention.heads.num_kv_heads,
                attention.batch.num_seqs,
            )
            .cluster(plan.cluster)
            .threads(32 * warps)
            .shared(plan.shared_bytes((group, head_dim), fresh.is_some()));
        let launch = match fresh {
            Some(fresh) => fresh.give(launch),
            None => launch,
        };
        launch
            .wide(attention.cache.partial.address())
            .wide(attention.cache.arrived.address())
            .wide(attention.out.address())
            .run()
    }

    fn decode_plan(&self, attention: &Paged<'_>) -> DecodePlan {
        let places = attention.batch.num_seqs * attention.heads.num_kv_heads;
        let max_blocks = attention.batch.max_blocks;
        let sms = self.device.facts.num_sms;
        // Joining more than a cluster costs more than it saves, unless they are long.
        let most = if max_blocks > LONG_BLOCKS {
            MAX_SPLITS
        } else {
            MAX_CLUSTER
        };
        let plan = |warps: usize| {
            // A split has a block for each warp.
            let splits = (sms / places.max(1))
                .min(max_blocks.div_ceil(warps).min(most))
                .min(MAX_PARTS / places.max(1))
                .max(1);
            let clustered = self.device.facts.capability >= (9, 0) && splits <= MAX_CLUSTER;
            DecodePlan {
                splits,
                warps,
                stages: if max_blocks <= splits * warps { 1 } else { 2 },
                cluster: if clustered { splits } else { 1 },
            }
        };
        // Few sequences leave room for the products before and after; with many, what is read here counts.
        plan(if 3 * places >= sms { 8 } else { 4 })
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
