//! Ranks on the CPU: threads of one process.
//!
//! An engine on the CPU has one rank. These are what the collectives of other devices are compared with, and how the
//! split of a model is tested without them.

use std::{sync::Arc, time::Duration};

use crate::{
    backend::BackendError,
    cpu::{CpuBackend, CpuBuffer, CpuIndices, CpuWeight, DEVICE, check_len},
    exchange::Exchange,
    ops::{CollectiveOps, GatheredColumns, LinearOps, Rank},
};

/// A rank's place among the others.
pub(super) struct Member {
    pub(super) rank: Rank,
    pub(super) group: Arc<Exchange<Vec<f32>>>,
}

impl CpuBackend {
    /// `count` backends of `threads` threads each that are the ranks of one model. An operation that waits longer than
    /// `patience` for another rank fails.
    pub fn ranks(count: usize, threads: usize, patience: Duration) -> Vec<Self> {
        let group = Arc::new(Exchange::new(DEVICE, count, patience));
        let member = |index| Member {
            rank: Rank { index, count },
            group: Arc::clone(&group),
        };
        (0..count)
            .map(|index| Self {
                member: Some(member(index)),
                ..Self::new(threads)
            })
            .collect()
    }
}

impl CollectiveOps for CpuBackend {
    fn all_reduce(&self, x: &mut CpuBuffer, len: usize) -> Result<(), BackendError> {
        check_len("all_reduce: x", x.len(), len)?;
        let Some(Member { rank, group }) = &self.member else {
            return Ok(());
        };
        let parts = group.exchange(*rank, x[..len].to_vec())?;
        for (i, sum) in x[..len].iter_mut().enumerate() {
            *sum = parts.iter().map(|part| part[i]).sum();
        }
        Ok(())
    }

    fn share_indices(&self, indices: &mut CpuIndices, len: usize) -> Result<(), BackendError> {
        check_len("share_indices: indices", indices.len(), len)?;
        let Some(Member { rank, group }) = &self.member else {
            return Ok(());
        };
        // Their bits, as ranks exchange nothing but floats.
        let own = indices[..len].iter().map(|index| f32::from_bits(*index));
        let shared = group.exchange(*rank, own.collect())?;
        for (index, bits) in indices.iter_mut().zip(&shared[0]) {
            *index = bits.to_bits();
        }
        Ok(())
    }

    fn gathered_linear(
        &self,
        x: &CpuBuffer,
        weight: &CpuWeight,
        rows: usize,
        columns: GatheredColumns<'_, Self>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let Some(Member { rank, group }) = &self.member else {
            return self.linear(x, weight, None, rows, out);
        };
        let GatheredColumns { part, own, total } = columns;
        self.linear(x, weight, None, rows, part)?;
        let parts = group.exchange(*rank, part[..rows * own.len()].to_vec())?;
        if rank.index > 0 {
            return Ok(());
        }
        check_len("gathered_linear: out", out.len(), rows * total)?;
        let mut first = 0;
        for part in parts.iter() {
            let width = part.len() / rows.max(1);
            for (row, values) in part.chunks(width.max(1)).enumerate() {
                out[row * total + first..][..width].copy_from_slice(values);
            }
            first += width;
        }
        Ok(())
    }
}
