//! Every CUDA kernel against the CPU backend. Needs a GPU.

mod activation;
mod attention;
mod attention_prompts;
mod deferred;
mod fresh;
mod gated_hopper;
mod indices;
mod int4;
mod invariance;
mod linear;
mod norm;
mod pooling;
mod q8;
mod recorded;
mod sampling;
#[path = "../support/mod.rs"]
#[allow(dead_code)] // the other tests use the rest
mod support;
mod twin;
