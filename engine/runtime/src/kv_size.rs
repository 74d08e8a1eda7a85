//! How large the KV cache is, and how long a sequence may be in it.

use crate::block_pool::{BLOCK_SIZE, blocks_for};

/// Sequences of full length that the cache has room for, if memory allows and nothing else is said.
const DEFAULT_SEQUENCES: usize = 8;
/// Of the free memory, the cache takes one part in so many at most, if nothing else is said.
const FREE_MEMORY_DIVISOR: u64 = 4;
/// Slots are numbered with 32 bits.
const MAX_BLOCKS: u64 = (1 << 32) / BLOCK_SIZE as u64;

/// What decides the size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvDemand {
    /// Bytes of one block over all layers.
    pub(crate) block_bytes: usize,
    /// `--kv-cache-memory`.
    pub(crate) kv_cache_memory: Option<u64>,
    /// `--max-model-len`.
    pub(crate) max_model_len: Option<usize>,
    /// Longest sequence of the model.
    pub(crate) model_max_len: usize,
    /// Free memory, where it is known.
    pub(crate) free: FreeMemory,
}

/// Memory that the cache may come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FreeMemory {
    /// Of a machine that others use too; `None` where the system does not say.
    Shared(Option<u64>),
    /// Of a GPU that is the engine's alone.
    Own(u64),
}

/// The size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvSize {
    pub(crate) num_blocks: usize,
    pub(crate) max_model_len: usize,
}

/// A cache in which not even one sequence of full length fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sequence of {max_model_len} tokens needs {} of KV cache, {limit} is {}: {} are missing; set \
     --max-model-len to at most {longest} or --kv-cache-memory to {} or more",
    Bytes(*needed), Bytes(*granted), Bytes(needed - granted), Bytes(*needed)
)]
pub struct KvCacheTooSmall {
    /// Tokens that a sequence should have.
    pub max_model_len: usize,
    /// Bytes for one such sequence.
    pub needed: u64,
    /// Bytes that the cache may have.
    pub granted: u64,
    /// What grants them.
    pub limit: &'static str,
    /// Tokens of the longest sequence that would fit.
    pub longest: usize,
}

impl KvDemand {
    /// Decides. Without `--max-model-len` a sequence may be as long as the model allows, or as the cache holds if that
    /// is less.
    pub(crate) fn decide(self) -> Result<KvSize, KvCacheTooSmall> {
        let Self {
            block_bytes,
            kv_cache_memory,
            max_model_len,
            model_max_len,
            free,
        } = self;
        let wanted_len = max_model_len.unwrap_or(model_max_len);
        let block_bytes = block_bytes.max(1) as u64;
        let (granted, limit) = match kv_cache_memory {
            Some(bytes) => (bytes, "--kv-cache-memory"),
            None => match free {
                FreeMemory::Shared(bytes) => {
                    let wanted = (DEFAULT_SEQUENCES * blocks_for(wanted_len)) as u64 * block_bytes;
                    let quarter = bytes.map_or(u64::MAX, |bytes| bytes / FREE_MEMORY_DIVISOR);
                    (wanted.min(quarter), "a quarter of the free memory")
                }
                FreeMemory::Own(bytes) => (bytes / 10 * 9, "nine tenths of the GPU's free memory"),
            },
        };
        let num_blocks = usize::try_from((granted / block_bytes).min(MAX_BLOCKS)).unwrap_or(usize::MAX);
        // The last token of a sequence is drawn and not cached.
        let longest = if num_blocks == 0 {
            0
        } else {
            num_blocks * BLOCK_SIZE + 1
        };
        if longest < wanted_len && (max_model_len.is_some() || num_blocks == 0) {
            // Without a wish, the shortest sequence there is.
            let max_model_len = max_model_len.unwrap_or(2);
            let needed = blocks_for(max_model_len - 1) as u64 * block_bytes;
            return Err(KvCacheTooSmall {
                max_model_len,
                needed,
                granted,
                limit,
                longest,
            });
        }
        Ok(KvSize {
            num_blocks,
            max_model_len: wanted_len.min(longest),
        })
    }
}

/// Bytes as a person reads them, and as `--kv-cache-memory` takes them.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounded up, so that who sets what is asked for has enough.
        match self.0 {
            bytes if bytes >= 10 << 20 => write!(f, "{}Mi", bytes.div_ceil(1 << 20)),
            bytes => write!(f, "{}Ki", bytes.div_ceil(1 << 10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SmolLM2-135M with a cache of f16: 2 x 30 layers x 3 heads x 64 x 16 tokens x 2 bytes.
    const DEMAND: KvDemand = KvDemand {
        block_bytes: 368_640,
        kv_cache_memory: None,
        max_model_len: None,
        model_max_len: 8192,
        free: FreeMemory::Shared(Some(64 << 30)),
    };

    #[test]
    fn there_is_room_for_eight_sequences_of_full_length() {
        assert_eq!(
            DEMAND.decide(),
            Ok(KvSize {
                num_blocks: 8 * 512,
                max_model_len: 8192
            })
        );
        let shorter = KvDemand {
            max_model_len: Some(1000),
            ..DEMAND
        };
        assert_eq!(
            shorter.decide(),
            Ok(KvSize {
                num_blocks: 8 * 63,
                max_model_len: 1000
            })
        );
    }

    #[test]
    fn at_most_a_quarter_of_the_free_memory_is_taken() {
        let little = KvDemand {
            free: FreeMemory::Shared(Some(400 * 368_640)),
            ..DEMAND
        };
        assert_eq!(
            little.decide(),
            Ok(KvSize {
                num_blocks: 100,
                max_model_len: 1601
            })
        );
    }

    #[test]
    fn a_gpu_gives_nine_tenths_of_what_is_free() {
        let gpu = KvDemand {
            free: FreeMemory::Own(100_000 * 368_640),
            ..DEMAND
        };
        assert_eq!(
            gpu.decide(),
            Ok(KvSize {
                num_blocks: 90_000,
                max_model_len: 8192
            })
        );
    }

    #[test]
    fn a_length_that_was_asked_for_and_does_not_fit_is_refused_with_what_is_missing() {
        let demand = KvDemand {
            kv_cache_memory: Some(100 << 20),
            max_model_len: Some(8192),
            ..DEMAND
        };
        let refusal = demand.decide().expect_err("too small");
        assert_eq!(
            refusal.to_string(),
            "a sequence of 8192 tokens needs 180Mi of KV cache, --kv-cache-memory is 100Mi: 80Mi are missing; \
             set --max-model-len to at most 4545 or --kv-cache-memory to 180Mi or more"
        );
        let less = KvDemand {
            max_model_len: Some(refusal.longest),
            ..demand
        };
        assert_eq!(
            less.decide(),
            Ok(KvSize {
                num_blocks: 284,
                max_model_len: 4545
            })
        );
        let more = KvDemand {
            kv_cache_memory: Some(180 << 20),
            ..demand
        };
        assert_eq!(
            more.decide(),
            Ok(KvSize {
                num_blocks: 512,
                max_model_len: 8192
            })
        );
    }

    #[test]
    fn a_cache_without_a_single_block_is_refused() {
        let none = KvDemand {
            kv_cache_memory: Some(1000),
            ..DEMAND
        };
        let refusal = none.decide().expect_err("too small");
        assert_eq!((refusal.needed, refusal.longest), (368_640, 0));
    }
}
