//! The rules of ARCHITECTURE.md that a machine can check: which crate may know which, and how long a file may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Each crate and the crates of this workspace that it may use. A new arrow is a decision: it is written down in
/// ARCHITECTURE.md, with its reason, and then here.
const ARROWS: &[(&str, &[&str])] = &[
    ("ferrum-api", &[]),
    (
        "ferrum-cli",
        &[
            "ferrum-api",
            "ferrum-crds",
            "ferrum-engine",
            "ferrum-frontend",
            "ferrum-models",
            "ferrum-operator",
            "ferrum-router",
            "ferrum-runtime",
            "ferrum-sim",
        ],
    ),
    ("ferrum-crds", &["ferrum-engine"]),
    ("ferrum-cuda-emulator", &[]),
    ("ferrum-e2e", &["ferrum-crds"]),
    ("ferrum-engine", &[]),
    ("ferrum-frontend", &["ferrum-api", "ferrum-engine"]),
    ("ferrum-kernels", &[]),
    ("ferrum-models", &["ferrum-engine", "ferrum-kernels"]),
    ("ferrum-operator", &["ferrum-api", "ferrum-crds", "ferrum-engine"]),
    ("ferrum-router", &["ferrum-api", "ferrum-crds", "ferrum-engine"]),
    (
        "ferrum-runtime",
        &["ferrum-engine", "ferrum-kernels", "ferrum-models"],
    ),
    ("ferrum-sim", &["ferrum-engine"]),
];

/// Dependencies that would break a crate's purpose, with the reason.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "ferrum-engine",
        &["axum", "tonic", "kube", "k8s-openapi", "cudarc"],
        "the contract knows no transport and no device",
    ),
    (
        "ferrum-kernels",
        &["tokio", "axum", "tonic", "kube", "serde_json"],
        "kernels know mathematics only",
    ),
    (
        "ferrum-models",
        &["tokio", "axum", "tonic", "kube", "hf-hub"],
        "models are read from local files",
    ),
    (
        "ferrum-runtime",
        &["axum", "tonic", "kube", "hf-hub"],
        "the engine loop has no transport",
    ),
    (
        "ferrum-frontend",
        &["kube", "k8s-openapi", "hf-hub", "ferrum-models"],
        "a frontend serves any engine",
    ),
    (
        "ferrum-router",
        &["tokenizers", "hf-hub", "ferrum-models", "ferrum-runtime"],
        "a router needs no tokenizer and no model",
    ),
    ("ferrum-api", &["tokio", "axum", "kube"], "wire types are data"),
];

/// No source file is longer, tests aside.
const MAX_FILE_LINES: usize = 600;

#[test]
fn every_crate_uses_only_the_crates_it_may_know() {
    let packages = packages();
    let allowed: BTreeMap<_, BTreeSet<_>> = ARROWS
        .iter()
        .map(|(name, targets)| (*name, targets.iter().copied().collect()))
        .collect();
    for package in &packages {
        let name = text(package, "name");
        let allowed = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the table ARROWS"));
        for dependency in normal_dependencies(package).filter(|dependency| dependency.starts_with("ferrum-"))
        {
            assert!(
                allowed.contains(dependency),
                "{name} uses {dependency}: a new arrow is a decision, see ARCHITECTURE.md"
            );
        }
    }
    assert_eq!(
        packages.len(),
        ARROWS.len(),
        "a crate of the table ARROWS is gone"
    );
}

#[test]
fn no_crate_has_a_dependency_that_breaks_its_purpose() {
    for package in &packages() {
        for (_, forbidden, reason) in FORBIDDEN.iter().filter(|rule| rule.0 == text(package, "name")) {
            for dependency in normal_dependencies(package) {
                assert!(
                    !forbidden.contains(&dependency),
                    "{} uses {dependency}: {reason}",
                    text(package, "name")
                );
            }
        }
    }
}

#[test]
fn only_kernels_and_weight_mapping_hold_unsafe_code() {
    let unsafe_files: Vec<_> = sources()
        .into_iter()
        .filter(|path| fs::read_to_string(path).is_ok_and(|source| source.contains("unsafe {")))
        .filter(|path| !is_test(path))
        .filter(|path| {
            let path = path
                .strip_prefix(root())
                .expect("below the root")
                .to_string_lossy()
                .into_owned();
            !path.starts_with("kernels/") && !path.starts_with("engine/models/src/weights/")
        })
        .collect();
    assert!(
        unsafe_files.is_empty(),
        "unsafe code outside of kernels/ and weight mapping: {unsafe_files:?}"
    );
}

#[test]
fn no_source_file_is_too_long_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|path| !is_test(path))
        .filter_map(|path| {
            let lines = fs::read_to_string(&path)
                .ok()?
                .lines()
                .take_while(|line| *line != "mod tests {")
                .count();
            (lines > MAX_FILE_LINES).then(|| format!("{} ({lines} lines)", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "over {MAX_FILE_LINES} lines: {long:?}");
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn normal_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| text(dependency, "name"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a string")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the root")
        .to_owned()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

fn sources() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "*.rs", "*.cu"])
        .current_dir(root())
        .output()
        .expect("git runs");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| root().join(line))
        .collect()
}
