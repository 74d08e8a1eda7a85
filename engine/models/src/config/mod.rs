//! What a checkpoint says of its architecture, read once and checked field by field.

pub(crate) mod decoder;
pub(crate) mod encoder;
pub(crate) mod generation;
mod gptq;
mod raw;
pub(crate) mod rope;

pub(crate) use self::{
    decoder::DecoderConfig,
    encoder::{EncoderConfig, Pooling},
    gptq::{GptqConfig, GptqRules, Grouping},
    raw::RawConfig,
};
