#!/usr/bin/env bash
# The fast loop: format, lints, and the unit tests that need no real weights.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --features ferrum-e2e/cluster --quiet -- --deny warnings
cargo test --workspace --quiet --lib --bins
