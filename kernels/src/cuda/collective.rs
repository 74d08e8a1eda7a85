//! Sums and gathers over the GPUs that share a model.

use std::ops::Range;

use crate::{
    backend::BackendError,
    cpu::shape_error,
    cuda::{
        CudaBackend, CudaBuffer, CudaIndices, CudaWeight, Element,
        device::DeviceMemory,
        group::{Member, Peers, Transport},
        launch::Launch,
        norm::row_threads,
    },
    ops::{
        CollectiveOps, GatheredColumns, LinearArguments, LinearOps, NormOps, Normed, Rank, RmsNormWeight,
        product_then_norm,
    },
};

// As in cuda/exchange.cuh.
pub(super) const MAX_RANKS: usize = 8;
pub(super) const MOST_BLOCKS: usize = 256;
pub(super) const MOST_RESULTS: usize = 1 << 17;
pub(super) const CHANNELS: usize = 128;
pub(super) const MAX_LINES: usize = 2048;
pub(super) const BULK_CHANNELS: usize = 64;
pub(super) const PART_BYTES: usize = 32768;
pub(super) const HEADER_BYTES: usize = 4 * (MOST_BLOCKS + CHANNELS * (3 + 3 * MAX_RANKS));

/// Up to so many bytes are summed in lines, which is quickest; above, the lines' double traffic costs more.
const LINES_BYTES: usize = 1 << 20;

impl Launch<'_> {
    /// `struct Group`, a kernel's last argument.
    pub(super) fn group(self, rank: Rank, peers: &Peers) -> Self {
        let addresses = peers.memory.iter().map(DeviceMemory::address);
        let padded = addresses.chain(std::iter::repeat(0)).take(MAX_RANKS);
        let Rank { index, count } = rank;
        padded
            .fold(self, Self::wide)
            .wide(peers.given_up.word as u64)
            .wide(index as u64 | (count as u64) << 32)
    }
}

impl CudaBackend {
    /// This rank and the memory of all, where GPUs reach one another's.
    pub(super) fn peers(&self) -> Option<(Rank, &Peers)> {
        let member = self.member.as_ref()?;
        match &member.group.transport {
            Transport::Peers(peers) => Some((member.rank, peers)),
            Transport::Nccl { .. } => None,
        }
    }

    /// Sends this rank's columns to rank 0's `out`.
    fn gather(
        &self,
        member: &Member,
        part: &CudaBuffer,
        (rows, own, total): (usize, Range<usize>, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let rank = member.rank;
        let peers = match &member.group.transport {
            Transport::Peers(peers) => peers,
            Transport::Nccl { comms, .. } => {
                let packed = (own.start as u64) << 32 | own.len() as u64;
                let of_ranks = member.group.addresses.exchange(rank, packed)?;
                let columns = of_ranks.iter().map(|packed| {
                    let start = (packed >> 32) as usize;
                    start..start + (packed & 0xffff_ffff) as usize
                });
                return comms.gather(
                    &self.device,
                    rank,
                    part,
                    (rows, &columns.collect::<Vec<_>>(), total),
                    out,
                );
            }
        };
        // As often as it is launched or recorded; what is played back has the address.
        let addresses = member.group.addresses.exchange(rank, out.address())?;
        // Of as many blocks on every rank, whatever its part.
        let blocks = (rows * total).div_ceil(rank.count * 1024);
        self.device
            .kernel("gather_columns")?
            .grid(blocks.min(CHANNELS).min(peers.resident), 1, 1)
            .threads(512)
            .wide(part.address())
            .int(rows)
            .int(own.len())
            .wide(addresses[0])
            .int(total)
            .int(own.start)
            .group(rank, peers)
            .run()
    }
}

impl CollectiveOps for CudaBackend {
    fn all_reduce(&self, x: &mut CudaBuffer, len: usize) -> Result<(), BackendError> {
        x.check("all_reduce: x", len)?;
        let Some(member) = &self.member else {
            return Ok(());
        };
        let peers = match &member.group.transport {
            Transport::Peers(peers) => peers,
            Transport::Nccl { comms, .. } => return comms.all_reduce(&self.device, member.rank, x, len),
        };
        let chunk_bytes = member.rank.count * PART_BYTES;
        let chunks = (len * x.element().size()).div_ceil(chunk_bytes);
        self.device
            .kernel(&format!("all_reduce_{}", x.element().name()))?
            .grid(chunks.min(BULK_CHANNELS).min(peers.resident), 1, 1)
            .threads(512)
            .wide(x.address())
            .wide(len as u64)
            .group(member.rank, peers)
            .run()
    }

    fn all_reduce_add_norm(
        &self,
        x: &mut CudaBuffer,
        residual: &mut CudaBuffer,
        weight: &CudaBuffer,
        eps: f32,
        (rows, width): (usize, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let what = "all_reduce_add_norm";
        let size = x.element().size();
        let fits =
            width.is_multiple_of(4) && width * size <= MAX_LINES * 8 && rows * width * size <= LINES_BYTES;
        // With invariance one way for any number of rows.
        let fused = fits && !self.batch_invariant && x.element() == out.element();
        let Some((rank, peers)) = self.peers().filter(|_| fused) else {
            self.all_reduce(x, rows * width)?;
            return self.add_rms_norm(x, residual, weight, eps, (rows, width), out);
        };
        x.check(what, rows * width)?;
        residual.check(what, rows * width)?;
        weight.check(what, width)?;
        out.check(what, rows * width)?;
        let types = format!("{}_{}", x.element().name(), residual.element().name());
        self.device
            .kernel(&format!("all_reduce_add_norm_{types}"))?
            .grid(rows.min(CHANNELS).min(peers.resident), 1, 1)
            .threads(row_threads(width))
            .wide(x.address())
            .wide(residual.address())
            .wide(weight.address())
            .float(eps)
            .int(rows)
            .int(width)
            .wide(out.address())
            .group(rank, peers)
            .run()
    }

    fn share_indices(&self, indices: &mut CudaIndices, len: usize) -> Result<(), BackendError> {
        indices.check("share_indices: indices", len)?;
        let Some(member) = &self.member else {
            return Ok(());
        };
        let peers = match &member.group.transport {
            Transport::Peers(peers) => peers,
            Transport::Nccl { comms, .. } => return comms.share(&self.device, member.rank, indices, len),
        };
        self.device
            .kernel("share_indices")?
            .grid(1, 1, 1)
            .threads(256)
            .wide(indices.address())
            .int(len)
            .group(member.rank, peers)
            .run()
    }

    fn linear_add_norm(
        &self,
        product: LinearArguments<'_, Self>,
        norm: RmsNormWeight<'_, Self>,
        shape: (usize, usize),
        (scratch, residual): (&mut CudaBuffer, &mut CudaBuffer),
        out: &mut Normed<Self>,
    ) -> Result<(), BackendError> {
        match self.add_norm(&product, &norm, shape, residual, out) {
            Some(done) => done,
            None => product_then_norm(self, (product, norm), shape, (scratch, residual), out),
        }
    }

    fn gathered_linear(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        columns: GatheredColumns<'_, Self>,
        out: &mut CudaBuffer,
    ) -> Result<(), BackendError> {
        let Some(member) = &self.member else {
            return self.linear(x, weight, None, rows, out);
        };
        let what = "gathered_linear";
        let GatheredColumns { part, own, total } = columns;
        self.linear(x, weight, None, rows, part)?;
        part.check(what, rows * own.len())?;
        if part.element() != Element::F32 || out.element() != Element::F32 || own.len() != weight.rows {
            return Err(shape_error(format!(
                "{what}: {} columns as {} of a weight of {} rows, gathered as {}: both are f32",
                own.len(),
                part.element().name(),
                weight.rows,
                out.element().name()
            )));
        }
        if member.rank.index == 0 {
            out.check(what, rows * total)?;
        }
        self.gather(member, part, (rows, own, total), out)
    }
}
