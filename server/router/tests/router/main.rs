//! The router over real sockets: each file a part of its behaviour.
#![allow(unreachable_pub)] // a test binary exports nothing

mod engines;
mod kubernetes;
mod membership;
mod queue;
mod retry;
mod routes;
mod streaming;
mod support;
mod telemetry;
