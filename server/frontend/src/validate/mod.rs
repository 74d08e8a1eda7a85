//! The one place where wire types become [`ValidRequest`](ferrum_engine::ValidRequest)s: nobody behind it reads
//! raw input. Every refusal names the field, its value and what is allowed.

mod chat;
mod completion;
mod embedding;
mod length;
mod sampling;
mod tokens;

pub(crate) use chat::validate_chat;
pub(crate) use completion::validate_completion;
pub(crate) use embedding::{Encoding, validate_embedding};

use std::sync::Arc;

use ferrum_api::{ApiError, StopStrings, StreamOptions};
use ferrum_engine::GenerateRequest;

/// Most answers to one prompt.
const MAX_N: i64 = 128;
/// Most stop strings, and the longest.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

/// A chat or completion request that the engine can take.
#[derive(Debug)]
pub(crate) struct ValidGeneration {
    /// One a choice: `n` of each prompt, prompt by prompt.
    pub(crate) requests: Vec<GenerateRequest>,
    /// Texts that end an answer.
    pub(crate) stops: Arc<[String]>,
    /// What each choice's text begins with (`echo`); empty where nothing.
    pub(crate) echo: Vec<String>,
    /// How to answer.
    pub(crate) delivery: Delivery,
    /// Tokens of all prompts, each counted once.
    pub(crate) prompt_tokens: usize,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Stream { include_usage: bool },
    Whole,
}

/// How the answer is to be sent.
fn delivery(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Delivery, ApiError> {
    if stream != Some(true) {
        return match options {
            Some(_) => Err(ApiError::invalid(
                "stream_options",
                "`stream_options` needs `stream: true`",
            )),
            None => Ok(Delivery::Whole),
        };
    }
    let include_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
    Ok(Delivery::Stream { include_usage })
}

/// How many answers to a prompt.
fn answers(n: Option<i64>) -> Result<usize, ApiError> {
    match n.unwrap_or(1) {
        n @ 1..=MAX_N => Ok(n as usize),
        n => Err(ApiError::invalid(
            "n",
            format!("`n` is {n}: expected 1 to {MAX_N}"),
        )),
    }
}

/// The stop strings.
fn stops(stop: Option<StopStrings>) -> Result<Arc<[String]>, ApiError> {
    let StopStrings(stops) = stop.unwrap_or_default();
    if stops.len() > MAX_STOPS {
        let message = format!("`stop` has {} strings: expected at most {MAX_STOPS}", stops.len());
        return Err(ApiError::invalid("stop", message));
    }
    for (index, stop) in stops.iter().enumerate() {
        if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
            let message = format!(
                "`stop[{index}]` has {} bytes: expected 1 to {MAX_STOP_BYTES}",
                stop.len()
            );
            return Err(ApiError::invalid(format!("stop[{index}]"), message));
        }
    }
    Ok(stops.into())
}
