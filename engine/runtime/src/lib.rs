//! From a loaded model to a running engine.
//!
//! One thread runs the five verbs of the engine loop: receive, schedule, prepare, forward, process. What
//! it decides is pure and knows neither clock nor device: [`scheduler`] says who computes what in a step,
//! [`kv_cache`] (over [`block_pool`] and [`prefix_cache`]) which blocks hold the keys and values. What it
//! decided, [`model_runner`] computes, on one device or on several that share the model. [`Generator`] and [`TextEmbedder`] are the two tasks; [`launch`] starts the one
//! that a checkpoint is for.

pub mod block_pool;
#[cfg_attr(not(feature = "cuda"), path = "without_cuda.rs")]
mod cuda;
mod embedder;
mod engine;
mod generator;
mod handle;
pub mod kv_cache;
mod kv_size;
mod launch;
mod memory;
mod meter;
pub mod model_runner;
pub mod prefix_cache;
mod rank;
pub mod sampler;
pub mod scheduler;

pub use cuda::devices_given_back;
pub use embedder::TextEmbedder;
pub use generator::Generator;
pub use kv_size::KvCacheTooSmall;
pub use launch::{LaunchFailure, Launched, check_device, launch};
pub use rank::RankModel;
