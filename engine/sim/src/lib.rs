//! An engine without weights: the whole [`EngineHandle`](ferrum_engine::EngineHandle) contract with set timing
//! and set failures, so that server, router and operator can be tested anywhere.
//!
//! ```text
//! launch(config) -> SimEngine ──submit──> one task a request: wait for room -> prefill -> token, token, ...
//!                      │                                         │
//!                      └── load, kv_events, failure <── Pool (sequences, KV blocks, prefix cache, counters)
//! ```
//!
//! Tokens are a function of prompt and seed, so the same request gives the same text on every replica. The
//! tokenizer encodes every byte as itself: ids 0 to 255 are bytes, the few special tokens follow.

mod config;
mod embed;
mod engine;
mod generate;
mod pool;
mod prefix_cache;
mod text;
mod tokenizer;

pub use config::SimConfig;
pub use engine::{SimEngine, SimError, launch};
pub use pool::Counters;
pub use tokenizer::{CHAT_TEMPLATE, IM_END, IM_START, byte_level_tokenizer};
