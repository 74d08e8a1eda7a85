//! KERNELS.md names every operation and only files that exist.

use std::{collections::BTreeSet, fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table() -> String {
    fs::read_to_string(root().join("KERNELS.md")).expect("KERNELS.md")
}

/// Methods of the traits in `src/ops`.
fn operations() -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for entry in fs::read_dir(root().join("src/ops")).expect("src/ops") {
        let source = fs::read_to_string(entry.expect("an entry").path()).expect("a source file");
        let mut in_trait = false;
        for line in source.lines() {
            if line.starts_with("pub trait ") {
                in_trait = true;
            } else if line == "}" {
                in_trait = false;
            } else if in_trait && let Some(rest) = line.strip_prefix("    fn ") {
                let end = rest.find(['(', '<']).expect("a method's arguments");
                operations.insert(rest[..end].to_owned());
            }
        }
    }
    operations
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let operations = operations();
    assert!(
        operations.contains("linear") && operations.contains("logprobs"),
        "{operations:?}"
    );
    let rows: BTreeSet<String> = table()
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| Some(rest.split_once('`')?.0.to_owned()))
        .filter(|name| !name.ends_with(".cu"))
        .collect();
    assert_eq!(rows, operations);
}

#[test]
fn every_cuda_file_has_a_row() {
    let files: BTreeSet<String> = fs::read_dir(root().join("cuda"))
        .expect("cuda")
        .map(|entry| format!("cuda/{}", entry.expect("an entry").file_name().display()))
        .filter(|name| name.ends_with(".cu"))
        .collect();
    assert!(files.len() > 5, "{files:?}");
    let table = table();
    let rows: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `cuda/"))
        .filter_map(|rest| Some(format!("cuda/{}", rest.split_once('`')?.0)))
        .collect();
    assert_eq!(rows, files);
}

#[test]
fn every_file_that_the_table_names_exists() {
    let table = table();
    let names = table.split('`').skip(1).step_by(2);
    let files: Vec<&str> = names
        .filter(|name| name.ends_with(".rs") || name.ends_with(".cu"))
        .collect();
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        assert!(root().join(file).is_file(), "{file}");
    }
}
