//! `ferrum pull`, `list` and `rm` against a hub on this machine.

mod support;

use std::{fs, path::Path, process::Output, thread};

use support::{
    fake_hub::{COMMIT, FakeHub},
    ferrum, output, stderr, stdout,
};

const MODEL: &str = "org/model";

/// A repository as they are: weights in two formats, and things that nobody needs.
fn repository() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("1_Pooling/config.json", b"{}".to_vec()),
        ("model.safetensors", weights()),
        ("pytorch_model.bin", weights()),
        ("onnx/model.onnx", weights()),
        ("README.md", b"read me".to_vec()),
    ]
}

fn weights() -> Vec<u8> {
    (0..300_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn gguf() -> Vec<u8> {
    [b"GGUF".to_vec(), weights()].concat()
}

fn pull(home: &Path, hub: &FakeHub, model: &str) -> Output {
    output(
        ferrum(home)
            .env("HF_ENDPOINT", &hub.endpoint)
            .args(["pull", model]),
    )
}

#[track_caller]
fn assert_fails(result: &Output, parts: &[&str]) {
    let text = stderr(result);
    assert_eq!(result.status.code(), Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_pull_brings_what_is_needed_and_the_next_one_downloads_nothing() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    let first = pull(home.path(), &hub, MODEL);
    assert!(first.status.success(), "{}", stderr(&first));
    let snapshot = home.path().join("hub/models--org--model/snapshots").join(COMMIT);
    assert_eq!(stdout(&first).trim(), snapshot.to_str().expect("utf-8"));
    assert_eq!(
        fs::read(snapshot.join("model.safetensors")).expect("is there"),
        weights()
    );
    assert!(snapshot.join("1_Pooling/config.json").exists());
    assert!(!snapshot.join("pytorch_model.bin").exists() && !snapshot.join("onnx").exists());
    assert_eq!(
        fs::read_to_string(home.path().join("hub/models--org--model/refs/main")).expect("a ref"),
        COMMIT
    );

    let before = hub.requests().len();
    let again = pull(home.path(), &hub, MODEL);
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(hub.requests()[before..], ["info main"]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.break_after("model.safetensors", &[100_000, 50_000]);
    let result = pull(home.path(), &hub, MODEL);
    assert!(result.status.success(), "{}", stderr(&result));
    let snapshot = stdout(&result);
    assert_eq!(
        fs::read(Path::new(snapshot.trim()).join("model.safetensors")).expect("is there"),
        weights()
    );
    let asked: Vec<_> = hub
        .requests()
        .into_iter()
        .filter(|request| request.starts_with("model."))
        .collect();
    assert_eq!(asked[0], "model.safetensors");
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        asked[1..]
            .iter()
            .all(|request| request.contains("bytes=") && !request.contains("bytes=0-"))
    );
}

#[test]
fn a_download_that_was_given_up_is_resumed_by_the_next_pull() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.break_after("model.safetensors", &[100_000, 0, 0, 0, 0, 0]);
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &["broke off at", "run the command again"],
    );
    let listed = output(ferrum(home.path()).arg("list"));
    assert!(stdout(&listed).contains("incomplete"), "{}", stdout(&listed));

    let result = pull(home.path(), &hub, MODEL);
    assert!(result.status.success(), "{}", stderr(&result));
    assert!(
        hub.requests()
            .last()
            .is_some_and(|request| request.contains("bytes="))
    );
}

#[test]
fn a_damaged_file_is_never_taken() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.damage("model.safetensors");
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &["model.safetensors arrived damaged", "SHA-256", "help:"],
    );
    let snapshot = home.path().join("hub/models--org--model/snapshots").join(COMMIT);
    assert!(!snapshot.join("model.safetensors").exists());
}

#[test]
fn a_wrong_partial_file_is_downloaded_from_its_start() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.break_after("model.safetensors", &[100_000, 0, 0, 0, 0, 0]);
    assert_fails(&pull(home.path(), &hub, MODEL), &["broke off"]);
    let blobs = fs::read_dir(home.path().join("hub/models--org--model/blobs")).expect("blobs");
    let partial = blobs
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some());
    fs::write(partial.expect("a partial file"), vec![7; 1000]).expect("is written");
    let result = pull(home.path(), &hub, MODEL);
    assert!(result.status.success(), "{}", stderr(&result));
}

#[test]
fn what_the_hub_refuses_is_told_with_what_to_do() {
    let hub = FakeHub::start(&repository());
    let home = tempfile::tempdir().expect("a folder");
    let missing = pull(home.path(), &hub, "Qwen/Qwen3-06B");
    assert_fails(
        &missing,
        &[
            "no repository Qwen/Qwen3-06B",
            "did you mean Qwen/Qwen3-0.6B",
            "set HF_TOKEN",
        ],
    );
    assert_fails(
        &pull(home.path(), &hub, "org/model@v9"),
        &["no branch, tag or commit v9", "/tree/main"],
    );

    hub.make_private("hf_right");
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &["or it is private", "set HF_TOKEN"],
    );
    let mut command = ferrum(home.path());
    command
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_TOKEN", "hf_wrong")
        .args(["pull", MODEL]);
    assert_fails(
        &output(&mut command),
        &["refused the access token", "settings/tokens"],
    );
    assert!(output(command.env("HF_TOKEN", "hf_right")).status.success());
}

#[test]
fn a_gated_repository_asks_for_its_licence() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.make_gated();
    let page = format!("{}/org/model", hub.endpoint);
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &["is gated", &page, "set HF_TOKEN"],
    );
}

#[test]
fn a_disk_that_is_too_small_is_told_before_the_download() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    hub.claim_size(1 << 60);
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &[
            "no space for org/model: 1152922 TB needed",
            "free in",
            "ferrum rm",
        ],
    );
    assert_eq!(hub.requests(), ["info main"]);
}

#[test]
fn without_a_network_a_cached_model_is_used_and_another_is_refused() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    assert!(pull(home.path(), &hub, MODEL).status.success());
    drop(hub);
    let nowhere = "http://127.0.0.1:9";
    let cached = output(
        ferrum(home.path())
            .env("HF_ENDPOINT", nowhere)
            .args(["pull", MODEL]),
    );
    assert!(cached.status.success(), "{}", stderr(&cached));
    assert!(stderr(&cached).contains("the cached copy is used"));
    let other = output(
        ferrum(home.path())
            .env("HF_ENDPOINT", nowhere)
            .args(["pull", "org/other"]),
    );
    assert_fails(&other, &["cannot reach the model hub", "HF_ENDPOINT", "--from"]);
    let offline = output(
        ferrum(home.path())
            .env("HF_HUB_OFFLINE", "1")
            .args(["pull", "org/other"]),
    );
    assert_fails(&offline, &["HF_HUB_OFFLINE"]);
}

#[test]
fn one_gguf_of_several_is_chosen_by_its_quantization() {
    let files = [
        ("m-Q4_K_M.gguf", gguf()),
        ("m-Q8_0.gguf", gguf()),
        ("README.md", Vec::new()),
    ];
    let (home, hub) = (tempfile::tempdir().expect("a folder"), FakeHub::start(&files));
    assert_fails(
        &pull(home.path(), &hub, MODEL),
        &["several GGUF files", "Q4_K_M", "org/model:Q"],
    );
    let chosen = pull(home.path(), &hub, "org/model:q8_0");
    assert!(
        stdout(&chosen).trim().ends_with("m-Q8_0.gguf"),
        "{}",
        stderr(&chosen)
    );
    let named = pull(home.path(), &hub, "hf://org/model@v1/m-Q4_K_M.gguf");
    assert!(
        stdout(&named).trim().ends_with("m-Q4_K_M.gguf"),
        "{}",
        stderr(&named)
    );
}

#[test]
fn pulls_of_one_model_at_the_same_time_download_it_once() {
    let (home, hub) = (
        tempfile::tempdir().expect("a folder"),
        FakeHub::start(&repository()),
    );
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| pull(home.path(), &hub, MODEL)))
            .collect();
        for result in pulls {
            let result = result.join().expect("no panic");
            assert!(result.status.success(), "{}", stderr(&result));
        }
    });
    let downloads = hub
        .requests()
        .iter()
        .filter(|request| request.starts_with("model.safetensors"))
        .count();
    assert_eq!(downloads, 1);
}

#[test]
fn an_import_takes_the_place_of_a_download() {
    let home = tempfile::tempdir().expect("a folder");
    let source = home.path().join("SmolLM2.Q4_1.gguf");
    fs::write(&source, gguf()).expect("is written");
    let pull_from = |from: &Path| {
        let mut command = ferrum(home.path());
        output(
            command
                .env("HF_HUB_OFFLINE", "1")
                .args(["pull", "smollm2:135m", "--from"])
                .arg(from),
        )
    };
    let imported = pull_from(&source);
    assert!(imported.status.success(), "{}", stderr(&imported));
    let path = stdout(&imported);
    assert!(
        path.contains("models--HuggingFaceTB--SmolLM2-135M-Instruct"),
        "{path}"
    );
    assert_eq!(fs::read(path.trim()).expect("is there"), gguf());
    assert_eq!(
        stdout(&pull_from(&source)),
        path,
        "the same files give the same place"
    );

    let listed = output(ferrum(home.path()).args(["list", "--json"]));
    let models: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("is JSON");
    assert_eq!(models[0]["name"], "smollm2:135m");

    fs::write(&source, b"not a model").expect("is written");
    assert_fails(&pull_from(&source), &["does not begin with GGUF"]);
    assert_fails(&pull_from(Path::new("/nowhere")), &["cannot read /nowhere"]);

    let removed = output(ferrum(home.path()).args(["rm", "smollm2:135m"]));
    assert!(removed.status.success(), "{}", stderr(&removed));
    assert_eq!(
        stdout(&output(ferrum(home.path()).args(["list", "--json"]))).trim(),
        "[]"
    );
}

#[test]
fn a_reference_that_names_no_model_is_wrong_usage() {
    let home = tempfile::tempdir().expect("a folder");
    let result = output(ferrum(home.path()).args(["pull", "smolm2:135m"]));
    assert_eq!(result.status.code(), Some(2));
    assert!(
        stderr(&result).contains("did you mean smollm2:135m"),
        "{}",
        stderr(&result)
    );
}
