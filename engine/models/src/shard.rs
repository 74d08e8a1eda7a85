//! Which part of a decoder each of the devices computes that share it (Shoeybi et al. 2019, Megatron-LM).
//!
//! A rank has some query heads with their key heads, and some of the inner elements of each MLP: rows of the matrices
//! that make them (q, k, v, gate, up), columns of those that bring them together (output, down). The latter's products
//! are parts of sums over ranks, the only values exchanged within a layer. Key heads that are fewer than ranks are had
//! by several. The output layer is cut by rows of the vocabulary. The embedding table is whole on each rank: looking up
//! a row is cheaper than a sum over ranks of rows that all but one have not.

use std::ops::Range;

use ferrum_kernels::ops::{HeadLayout, Rank};

use crate::{LoadError, config::DecoderConfig};

/// Rows or columns are cut at multiples of this where there are enough: what kernels take at once.
const TILE: usize = 16;

/// A dimension of a tensor, and the range of it that a rank has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Elements in the file.
    pub(crate) full: usize,
    /// The first that is taken.
    pub(crate) start: usize,
    /// How many are taken.
    pub(crate) len: usize,
}

impl Extent {
    pub(crate) fn is_whole(self) -> bool {
        self.len == self.full
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// The part of `full` elements that `rank` has, cut at multiples of `unit` if every rank gets one.
    fn cut(full: usize, rank: Rank, unit: usize) -> Self {
        let unit = if full / unit >= rank.count { unit } else { 1 };
        let at = |index| match index == rank.count {
            true => full,
            false => full / unit * index / rank.count * unit,
        };
        let start = at(rank.index);
        Self {
            full,
            start,
            len: at(rank.index + 1) - start,
        }
    }
}

impl From<usize> for Extent {
    /// All of it.
    fn from(full: usize) -> Self {
        Self {
            full,
            start: 0,
            len: full,
        }
    }
}

/// One rank's part of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderShard {
    /// Its heads.
    pub(crate) heads: HeadLayout,
    /// Rows of the query projection, columns of attention's output projection.
    pub(crate) q: Extent,
    /// Rows of the key projection, and of the value projection.
    pub(crate) kv: Extent,
    /// Rows of the gate and up projections, columns of the down projection.
    pub(crate) intermediate: Extent,
    /// Rows of the output layer.
    pub(crate) vocab: Extent,
}

impl DecoderShard {
    /// The part of `rank`; `block_len` columns of the down projection cannot be cut (1 where it is dense).
    ///
    /// # Errors
    /// As [`check_ranks`].
    pub(crate) fn of(config: &DecoderConfig, rank: Rank, block_len: usize) -> Result<Self, LoadError> {
        check_ranks(config, rank.count)?;
        let HeadLayout {
            num_heads,
            num_kv_heads,
            head_dim,
        } = config.heads;
        let heads = HeadLayout {
            num_heads: num_heads / rank.count,
            num_kv_heads: num_kv_heads.div_ceil(rank.count),
            head_dim,
        };
        Ok(Self {
            q: Extent::cut(config.heads.q_width(), rank, heads.q_width()),
            kv: Extent {
                full: config.heads.kv_width(),
                start: rank.index * num_kv_heads / rank.count * head_dim,
                len: heads.kv_width(),
            },
            intermediate: Extent::cut(config.intermediate_size, rank, block_len.max(TILE)),
            vocab: Extent::cut(config.vocab_size, rank, TILE),
            heads,
        })
    }
}

/// Refuses a number of ranks over which the heads cannot be split evenly.
///
/// # Errors
/// [`LoadError::Option`] with what is allowed.
pub(crate) fn check_ranks(config: &DecoderConfig, count: usize) -> Result<(), LoadError> {
    let HeadLayout {
        num_heads,
        num_kv_heads,
        ..
    } = config.heads;
    let fits = |count: usize| {
        num_heads.is_multiple_of(count)
            && (num_kv_heads.is_multiple_of(count) || count.is_multiple_of(num_kv_heads))
            && config.intermediate_size.min(config.vocab_size) >= count
    };
    if count > 0 && fits(count) {
        return Ok(());
    }
    let allowed: Vec<String> = (1..=num_heads)
        .filter(|&count| fits(count))
        .map(|count| count.to_string())
        .collect();
    Err(LoadError::Option {
        option: "tensor_parallel",
        value: count.to_string(),
        allowed: format!(
            "one of {}, as the model has {num_heads} query heads and {num_kv_heads} key heads",
            allowed.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests;
