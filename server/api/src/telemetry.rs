//! Messages and service stubs of `proto/ferrum.v1.proto`, generated.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)] // generated; the .proto holds the documentation

tonic::include_proto!("ferrum.v1");
