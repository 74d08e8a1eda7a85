//! Starts the real program for tests of the whole system, and asks it as a client does.

pub mod client;
pub mod cluster;
pub mod hub;
pub mod stack;
pub mod traffic;

use std::path::PathBuf;

/// A path that `make test` sets.
///
/// # Panics
/// When it is not set: a test that cannot run has failed.
pub fn environment(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => panic!("{name} is not set: run these tests with `make test`"),
    }
}

/// The manifest of a chat model in `replicas` replicas.
pub fn smollm2(replicas: usize) -> String {
    let models = environment("FERRUM_TEST_MODELS");
    format!(
        "apiVersion: ferrum.dev/v1alpha1\n\
         kind: FerrumModel\n\
         metadata: {{name: smollm2}}\n\
         spec:\n\
         \x20 model: file://{}/SmolLM2-135M-Instruct.Q4_1.gguf\n\
         \x20 task: chat\n\
         \x20 replicas: {replicas}\n\
         \x20 engine: {{maxModelLen: 2048}}\n",
        models.display()
    )
}
