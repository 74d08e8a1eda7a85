//! The router over real sockets: each file a part of its behaviour.
#![allow(unreachable_pub, dead_code)] // a test binary exports nothing

mod retry;
mod support;
