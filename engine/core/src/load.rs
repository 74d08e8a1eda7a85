//! What an engine reports while it runs.

use serde::{Deserialize, Serialize};

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineLoad {
    /// Requests that wait for room.
    pub waiting_requests: usize,
    /// Requests in the running batch.
    pub running_requests: usize,
    /// Prompt tokens not computed yet, of waiting and running requests.
    pub queued_prefill_tokens: usize,
    /// Blocks that could be given out now, cached ones included.
    pub free_blocks: usize,
    /// Blocks in the pool.
    pub total_blocks: usize,
    /// Measured prefill rate, tokens a second; 0 until measured.
    pub prefill_tokens_per_second: f32,
    /// Measured decode rate of the whole batch, tokens a second; 0 until measured.
    pub decode_tokens_per_second: f32,
    /// Prompt tokens read since the start.
    pub prompt_tokens_total: u64,
    /// Of these, found in the prefix cache.
    pub cached_tokens_total: u64,
    /// Tokens generated (or texts' tokens embedded) since the start.
    pub generated_tokens_total: u64,
    /// Steps since the start.
    pub steps_total: u64,
    /// Where their time went.
    pub step_times: StepTimes,
    /// The device's own memory, where it has some.
    pub memory: Option<DeviceMemory>,
}

/// Where the time of steps went: the sum of both is the time that there was something to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// While the device computed.
    pub device: Durations,
    /// While it waited for the host.
    pub host: Durations,
}

/// How many took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Durations {
    /// By the first of [`Self::bounds`] that is not exceeded; the last, those beyond all.
    pub counts: [u64; Self::NUM_BOUNDS + 1],
    /// Their sum.
    pub seconds: f64,
}

impl Durations {
    /// Bounds between counts.
    pub const NUM_BOUNDS: usize = 18;

    /// Seconds: from 10 us, each twice the one before, up to 1.3 s.
    pub fn bounds() -> impl Iterator<Item = f64> {
        (0..Self::NUM_BOUNDS as i32).map(|doubled| 1e-5 * 2.0_f64.powi(doubled))
    }

    /// Adds one.
    pub fn add(&mut self, seconds: f64) {
        let at = Self::bounds().position(|bound| seconds <= bound);
        self.counts[at.unwrap_or(Self::NUM_BOUNDS)] += 1;
        self.seconds += seconds;
    }
}

/// Memory of the devices that share a model, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// All of it.
    pub total_bytes: u64,
    /// What nobody uses.
    pub free_bytes: u64,
    /// Weights, and what a step computes in.
    pub weights_bytes: u64,
    /// Keys and values.
    pub kv_cache_bytes: u64,
}

/// A change of the prefix cache, in the terms of block hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// All blocks are gone.
    Cleared,
    /// A block left the cache.
    Evicted {
        /// Its hash.
        hash: u64,
    },
    /// A full block entered the cache.
    Stored {
        /// Hash of the chain up to and with this block.
        hash: u64,
        /// Hash of the chain before it; `None` for the first block of a prompt.
        parent: Option<u64>,
        /// The tokens in it.
        tokens: Vec<u32>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_at_the_first_bound_that_it_does_not_exceed() {
        let mut durations = Durations::default();
        for seconds in [0.0, 1e-5, 1.1e-5, 2.0, 0.003] {
            durations.add(seconds);
        }
        assert_eq!((durations.counts[0], durations.counts[1]), (2, 1));
        assert_eq!(durations.counts[9], 1, "2.56 ms < 3 ms <= 5.12 ms");
        assert_eq!(durations.counts[Durations::NUM_BOUNDS], 1);
        assert!((durations.seconds - 2.003_021).abs() < 1e-9);
    }
}
