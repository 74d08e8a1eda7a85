//! The router over real sockets: each file a part of its behaviour.
#![allow(unreachable_pub)] // a test binary exports nothing

mod control;
mod engines;
mod keys;
mod kubernetes;
mod membership;
mod queue;
mod retry;
mod routes;
mod streaming;
mod support;
mod telemetry;
mod two_routers;
mod vanished;
