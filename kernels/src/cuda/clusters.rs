//! How many blocks that fill a multiprocessor run at once, alone or in clusters.

use std::collections::HashMap;

use crate::{
    backend::BackendError,
    cuda::{
        device::GpuFacts,
        launch::{Function, no_kernel},
    },
};

/// Blocks of a cluster.
pub(super) const SIZES: [usize; 4] = [1, 2, 4, 8];
/// One that may have clusters of any size, and more than half of a multiprocessor's shared memory.
const KERNEL: &str = "int4_linear_1_g128_bf16";
const SHARED_BYTES: usize = 120 << 10;

/// Clusters of each of [`SIZES`] that run at once where a block fills a multiprocessor; none of more than a block before Hopper.
///
/// A cluster lies in one of the groups that multiprocessors lie in. How many those have differs within a card and from card to
/// card, so that the driver is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clusters(pub(super) [usize; SIZES.len()]);

impl Clusters {
    pub(super) fn count(
        facts: &GpuFacts,
        functions: &HashMap<String, Function>,
    ) -> Result<Self, BackendError> {
        let mut counts = [facts.num_sms, 0, 0, 0];
        if facts.capability >= (9, 0) {
            let kernel = functions.get(KERNEL).ok_or_else(|| no_kernel(KERNEL))?;
            for (count, blocks) in counts.iter_mut().zip(SIZES).skip(1) {
                *count = kernel.active_clusters(blocks, SHARED_BYTES)?;
            }
        }
        Ok(Self(counts))
    }

    /// With so many blocks each, and how many there are; none that there is no room for.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, usize)> {
        SIZES.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Blocks at once without clusters: multiprocessors.
    pub(super) fn num_sms(&self) -> usize {
        self.0[0]
    }
}
