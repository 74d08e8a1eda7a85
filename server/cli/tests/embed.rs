//! `ferrum embed`, in the process and through an endpoint.

mod support;

use serde_json::Value;
use support::{checkpoint::tiny_bert, ferrum, output, server::Server, stderr, stdout};

const TEXTS: [&str; 3] = ["a cat sat", "a dog ran away quickly", "interest rates"];

fn vectors(lines: &str) -> Vec<Vec<f64>> {
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("is JSON"));
    let numbers = |record: Value| serde_json::from_value(record["embedding"].clone()).expect("is a vector");
    records.map(numbers).collect()
}

#[test]
fn vectors_are_the_same_in_the_process_and_through_an_endpoint() {
    let home = tempfile::tempdir().expect("a folder");
    let model = tiny_bert();
    let local = output(ferrum(home.path()).arg("embed").arg(&model).args(TEXTS));
    assert!(local.status.success(), "{}", stderr(&local));
    let server = Server::start(
        home.path(),
        &[model.to_str().expect("utf-8"), "--served-name", "bert"],
    );
    let remote = output(
        ferrum(home.path())
            .args(["embed", "bert", "--endpoint", &server.url])
            .args(TEXTS),
    );
    assert_eq!(stdout(&remote), stdout(&local), "{}", stderr(&remote));
    assert_eq!(vectors(&stdout(&local)).len(), 3);
}

#[test]
fn texts_come_from_a_file_a_line_each() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("texts");
    std::fs::write(&file, TEXTS.join("\n\n")).expect("is written");
    let from_file = output(
        ferrum(home.path())
            .arg("embed")
            .arg(tiny_bert())
            .arg("--file")
            .arg(&file),
    );
    let given = output(ferrum(home.path()).arg("embed").arg(tiny_bert()).args(TEXTS));
    assert_eq!(stdout(&from_file), stdout(&given), "{}", stderr(&from_file));
}

#[test]
fn similarity_is_one_with_itself_and_symmetric() {
    let home = tempfile::tempdir().expect("a folder");
    let embed = |args: &[&str]| {
        output(
            ferrum(home.path())
                .arg("embed")
                .arg(tiny_bert())
                .arg("--similarity")
                .args(args)
                .args(TEXTS),
        )
    };
    let result: Value = serde_json::from_slice(&embed(&["--format", "json"]).stdout).expect("is JSON");
    let cosine = |i: usize, j: usize| result["similarity"][i][j].as_f64().expect("a number");
    for i in 0..3 {
        // Vectors of 32 f32: their products are summed in f64, so that only the rounding to f32 is left.
        assert!((cosine(i, i) - 1.0).abs() < 1e-6, "{}", cosine(i, i));
        assert!((0..3).all(|j| cosine(i, j) == cosine(j, i)));
    }
    assert!(stdout(&embed(&[])).contains("a dog ran away"), "a table");
}

#[test]
fn fewer_dimensions_are_the_first_ones_normalised_again() {
    let home = tempfile::tempdir().expect("a folder");
    let embed = |args: &[&str]| {
        vectors(&stdout(&output(
            ferrum(home.path()).arg("embed").arg(tiny_bert()).args(args),
        )))
    };
    let cut = embed(&["a cat", "--dimensions", "8"]);
    assert_eq!(cut[0].len(), 8);
    let norm = cut[0].iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() < 1e-6, "{norm}");
}
