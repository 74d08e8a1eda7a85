//! From a loaded model to a running engine.
//!
//! One thread runs the loop of [`engine`]: receive, schedule, prepare, forward, process. What it decides
//! is pure and knows neither clock nor device: [`scheduler`] says who computes what in a step,
//! [`kv_cache`] (over [`block_pool`] and [`prefix_cache`]) which blocks hold the keys and values.

pub mod block_pool;
pub mod kv_cache;
pub mod prefix_cache;
pub mod scheduler;
