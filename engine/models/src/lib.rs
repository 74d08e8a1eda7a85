//! From files on disk to a model on a [`Backend`](ferrum_kernels::Backend).
//!
//! [`open`] reads what a checkpoint says of itself (a folder in the layout of Hugging Face, or a `.gguf` file)
//! without touching its weights; [`Checkpoint::load`] checks every tensor, hands it to
//! [`Backend::prepare_weight`](ferrum_kernels::Backend::prepare_weight) once and allocates all scratch memory.
//! What comes back computes with a fixed sequence of operations a step:
//!
//! - [`CausalLm`]: a [`ForwardBatch`] in, logits of the rows asked for out;
//! - [`Embedder`]: an [`EmbedBatch`] in, one pooled vector a sequence out.
//!
//! Nothing here knows requests, schedules or sampling.

mod batch;
mod checkpoint;
mod config;
mod error;
mod families;
mod layers;
mod model;
mod registry;
mod shard;
mod tokenizer;
mod weights;

pub use batch::{BatchLimits, EmbedBatch, ForwardBatch};
pub use checkpoint::{CardFacts, Checkpoint, LoadOptions, open};
pub use error::{FamilyRefusal, LoadError};
pub use model::{CausalLm, Embedder, Model};
