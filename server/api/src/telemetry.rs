//! Messages and service stubs of `proto/ferrum.v1.proto`, generated.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)] // generated; the .proto holds the documentation

tonic::include_proto!("ferrum.v1");

/// The hash of a KV block's bytes ([`kv_block_event::Stored::byte_hash`]): FNV-1a, 64 bits. Engines and routers must
/// agree on it.
pub fn byte_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
