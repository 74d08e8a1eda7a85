//! The attention operations on the CPU.
//!
//! Keys are read in tiles of 256 positions. Within a tile a query's scores are normalised together; tiles are
//! merged in order, by their maximum and sum. Tiles start at multiples of 256 whatever the query, so that a
//! query does the same operations in the same order in a decode step, in any chunk of a prefill, and
//! whichever thread works on which of its tiles.
#![allow(unsafe_code)]

mod attend;
mod block;
mod cache;
mod element;
mod micro;
mod plan;
mod rope;
mod scratch;
mod softmax;
mod source;

use crate::{
    backend::BackendError,
    cpu::{
        CpuBackend, CpuBuffer, CpuIndices, check_cu_seqlens, check_len,
        kv_cache::{CpuKvCache, KvStorage},
        pool::SyncPtr,
        shape_error,
    },
    ops::{AttentionMask, AttentionOps, HeadLayout, PagedBatch},
};

use attend::{Attend, Combine, Launch};
use plan::{Mask, Sequence, Shape, plan};
use scratch::with_scratch;
use source::{Paged, Rows, Source};

impl AttentionOps for CpuBackend {
    fn rope(
        &self,
        qkv: &mut CpuBuffer,
        heads: HeadLayout,
        positions: &CpuIndices,
        table: &CpuBuffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        check_len("rope: positions", positions.len(), rows)?;
        rope::rope(self, qkv, heads, &positions[..rows], table)
    }

    fn write_kv(
        &self,
        qkv: &CpuBuffer,
        heads: HeadLayout,
        cache: &mut CpuKvCache,
        layer: usize,
        slots: &CpuIndices,
        rows: usize,
    ) -> Result<(), BackendError> {
        check_len("write_kv: slots", slots.len(), rows)?;
        cache::write_kv(self, qkv, heads, (cache, layer), &slots[..rows])
    }

    fn paged_attention(
        &self,
        qkv: &CpuBuffer,
        heads: HeadLayout,
        cache: &CpuKvCache,
        layer: usize,
        batch: &PagedBatch<'_, CpuIndices>,
        scale: f32,
        window: Option<usize>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_heads(heads)?;
        cache::check_cache(cache, layer, heads)?;
        check_len("paged_attention: qkv", qkv.len(), batch.rows * heads.qkv_width())?;
        check_len("paged_attention: out", out.len(), batch.rows * heads.q_width())?;
        if window == Some(0) {
            return Err(shape_error("paged_attention: a window of 0 positions".to_owned()));
        }
        let sequences = paged_sequences(batch, cache)?;
        let mask = Mask {
            causal: true,
            window: window.unwrap_or(usize::MAX),
        };
        let out = SyncPtr(out.as_mut_ptr());
        match &cache.storage {
            KvStorage::F32(elements) => {
                let source = paged(cache, elements, layer, batch);
                self.attend(&sequences, mask, Launch::new((qkv, heads, scale), source, out));
            }
            KvStorage::F16(elements) => {
                let source = paged(cache, elements, layer, batch);
                self.attend(&sequences, mask, Launch::new((qkv, heads, scale), source, out));
            }
        }
        Ok(())
    }

    fn varlen_attention(
        &self,
        qkv: &CpuBuffer,
        heads: HeadLayout,
        cu_seqlens: &CpuIndices,
        num_seqs: usize,
        mask: AttentionMask,
        scale: f32,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        check_heads(heads)?;
        let cu_seqlens = check_cu_seqlens("varlen_attention: cu_seqlens", cu_seqlens, num_seqs)?;
        let rows = cu_seqlens[num_seqs] as usize;
        check_len("varlen_attention: qkv", qkv.len(), rows * heads.qkv_width())?;
        check_len("varlen_attention: out", out.len(), rows * heads.q_width())?;
        let sequences: Vec<Sequence> = cu_seqlens
            .windows(2)
            .map(|ends| Sequence {
                row: ends[0] as usize,
                count: (ends[1] - ends[0]) as usize,
                context: (ends[1] - ends[0]) as usize,
            })
            .collect();
        let mask = Mask {
            causal: mask == AttentionMask::Causal,
            window: usize::MAX,
        };
        let source = Rows {
            qkv,
            heads,
            cu_seqlens,
        };
        let out = SyncPtr(out.as_mut_ptr());
        self.attend(&sequences, mask, Launch::new((qkv, heads, scale), source, out));
        Ok(())
    }
}

impl CpuBackend {
    fn attend<K: Source>(&self, sequences: &[Sequence], mask: Mask, mut launch: Launch<'_, K>) {
        let plan = plan(
            sequences,
            Shape {
                num_kv_heads: launch.heads.num_kv_heads,
                group: launch.group(),
                mask,
                threads: self.pool().threads(),
            },
        );
        with_scratch(plan.part_rows * launch.part_row_len(), |parts| {
            launch.parts = SyncPtr(parts.as_mut_ptr());
            let launch = &launch;
            self.pool().run(plan.tasks.len(), |index| {
                let task = &plan.tasks[index];
                with_scratch(launch.scratch_len(task), |scratch| {
                    self.vectorize(Attend {
                        launch,
                        task,
                        scratch,
                    });
                });
            });
            self.pool().run(plan.shared.len(), |index| {
                let (task, first) = &plan.shared[index];
                with_scratch(launch.scratch_len(task), |scratch| {
                    self.vectorize(Combine {
                        launch,
                        task,
                        first: *first,
                        scratch,
                    });
                });
            });
        });
    }
}

fn paged<'a, E>(
    cache: &'a CpuKvCache,
    elements: &'a [E],
    layer: usize,
    batch: &PagedBatch<'a, CpuIndices>,
) -> Paged<'a, E> {
    Paged {
        cache,
        elements,
        layer,
        block_tables: batch.block_tables,
        max_blocks: batch.max_blocks,
    }
}

/// The sequences of a step, checked against the cache.
fn paged_sequences(
    batch: &PagedBatch<'_, CpuIndices>,
    cache: &CpuKvCache,
) -> Result<Vec<Sequence>, BackendError> {
    let num_seqs = batch.num_seqs;
    let cu_seqlens = check_cu_seqlens("paged_attention: cu_seqlens_q", batch.cu_seqlens_q, num_seqs)?;
    if cu_seqlens[num_seqs] as usize != batch.rows {
        return Err(shape_error(format!(
            "paged_attention: cu_seqlens_q ends at {}, the step has {} rows",
            cu_seqlens[num_seqs], batch.rows
        )));
    }
    check_len(
        "paged_attention: context_lens",
        batch.context_lens.len(),
        num_seqs,
    )?;
    check_len(
        "paged_attention: block_tables",
        batch.block_tables.len(),
        num_seqs * batch.max_blocks,
    )?;
    (0..num_seqs)
        .map(|seq| {
            let sequence = Sequence {
                row: cu_seqlens[seq] as usize,
                count: (cu_seqlens[seq + 1] - cu_seqlens[seq]) as usize,
                context: batch.context_lens[seq] as usize,
            };
            let table = &batch.block_tables[seq * batch.max_blocks..][..batch.max_blocks];
            check_sequence(seq, sequence, table, cache)?;
            Ok(sequence)
        })
        .collect()
}

fn check_sequence(
    seq: usize,
    sequence: Sequence,
    table: &[u32],
    cache: &CpuKvCache,
) -> Result<(), BackendError> {
    let Sequence { count, context, .. } = sequence;
    if context < count {
        return Err(shape_error(format!(
            "paged_attention: sequence {seq} has {count} queries and a context of {context}"
        )));
    }
    let layout = cache.layout();
    let blocks = context.div_ceil(layout.block_size);
    let Some(used) = table.get(..blocks) else {
        return Err(shape_error(format!(
            "paged_attention: sequence {seq} of {context} tokens needs {blocks} blocks, its table holds {}",
            table.len()
        )));
    };
    match used.iter().find(|&&block| block as usize >= layout.num_blocks) {
        Some(block) => Err(shape_error(format!(
            "paged_attention: sequence {seq} names block {block} of {}",
            layout.num_blocks
        ))),
        None => Ok(()),
    }
}

fn check_heads(heads: HeadLayout) -> Result<(), BackendError> {
    let HeadLayout {
        num_heads,
        num_kv_heads,
        head_dim,
    } = heads;
    if num_kv_heads == 0 || head_dim == 0 || num_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(shape_error(format!(
            "attention needs heads, and query heads a multiple of key heads: {heads:?}"
        )));
    }
    Ok(())
}
