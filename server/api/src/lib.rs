//! What goes over the wire: OpenAI's types, its error shape, and the protocols between engines, routers and
//! operator.
//!
//! # Fields that we do not know
//! A request field falls into one of four classes, and nothing is ever dropped in silence:
//! - *served*: it does what OpenAI (or, for the extensions, what engines commonly) say it does;
//! - *hint*: it may have no effect by its own definition (`user`, `metadata`, `prompt_cache_key`, ...): accepted;
//! - *known, not served*: accepted with the value that changes nothing (`tools: []`), else 400 naming the field;
//! - *unknown*: 400 naming the field, since a misspelt parameter must not change an answer unnoticed.
//!
//! `null` always means "not given".

pub mod chat;
pub mod completions;
pub mod demand;
pub mod embeddings;
pub mod error;
mod input;
mod logprobs;
pub mod models;
mod sampling;
mod support;
pub mod telemetry;
mod usage;

pub use error::{ApiError, ErrorBody, ErrorKind};
pub use input::{Input, StopStrings};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob};
pub use sampling::SamplingFields;
pub use usage::{PromptTokensDetails, StreamOptions, Usage};
