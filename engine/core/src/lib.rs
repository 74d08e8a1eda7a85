//! The engine contract: what a server may ask of an engine and what it hears back.
//!
//! A task is part of the contract: chat, embedding and, later, transcription and speech are requests and
//! events of one [`EngineHandle`]. Server, router and operator know tasks, never model names. No HTTP, no
//! Kubernetes and no device code is known here.

mod card;
mod engine;
mod launch;
mod load;
mod request;
mod words;

pub use card::{DefaultSampling, ModelCard, Task};
pub use engine::{BoxFuture, EngineHandle, EventStream, Phase, SharedEngine, SubmitError, channel};
pub use launch::{LaunchConfig, LaunchError, local_path, parse_bytes};
pub use load::{DeviceMemory, Durations, EngineLoad, KvEvent, StepTimes};
pub use request::{
    EmbedRequest, EngineError, Event, FinishReason, GenerateRequest, SamplingParams, TokenLogprob, Usage,
    ValidRequest,
};
pub use words::{Device, Dtype, OutputLayer, Quantization};
