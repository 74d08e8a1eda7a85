//! Compiles the protocols with a protobuf compiler in Rust, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/ferrum.v1.proto"], ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("ferrum.v1.bin");
    fs::write(&path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .file_descriptor_set_path(&path)
        .skip_protoc_run()
        .compile_protos(&["proto/ferrum.v1.proto"], &["proto"])?;
    Ok(())
}
