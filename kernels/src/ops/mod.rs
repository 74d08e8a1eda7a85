//! The operations, one trait a group. A fused operation is a provided method whose default body composes
//! primitives; a backend may override it, and a test compares the override with the default.

mod activation;
mod attention;
mod collective;
mod linear;
mod norm;
mod pooling;
mod sampling;

pub use activation::{ActivationOps, Gelu};
#[cfg(feature = "cuda")]
pub(crate) use attention::write_then_attend;
pub use attention::{
    AttentionMask, AttentionOps, CacheSlots, HeadLayout, PagedBatch, PagedView, QkNormWeights, RotaryStep,
};
#[cfg(feature = "cuda")]
pub(crate) use collective::product_then_norm;
pub use collective::{CollectiveOps, GatheredColumns, Rank};
pub use linear::{LinearArguments, LinearOps};
#[cfg(feature = "cuda")]
pub(crate) use norm::OwedScale;
pub use norm::{NormOps, Normed, RmsNormWeight};
pub use pooling::PoolingOps;
pub use sampling::{KNOWN, SampleRow, SamplingOps, TokenLogprobs};
