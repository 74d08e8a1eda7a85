//! `ferrum pull https://…/x.gguf`: a file of any web server (here `http://127.0.0.1`).

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use support::{fake_hub::FakeHub, ferrum, output, stderr, stdout};

fn gguf() -> Vec<u8> {
    let noise = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    b"GGUF".iter().copied().chain(noise).collect()
}

fn serving(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, FakeHub) {
    (tempfile::tempdir().expect("a folder"), FakeHub::start(files))
}

fn pull_with(home: &Path, hub: &FakeHub, path: &str, arguments: &[&str]) -> Output {
    let url = format!("{}/{path}", hub.endpoint);
    let mut command = ferrum(home);
    let log = home.join("why");
    output(
        command
            .args(["pull", &url, "--termination-log"])
            .arg(log)
            .args(arguments),
    )
}

fn pull(home: &Path, hub: &FakeHub) -> Output {
    pull_with(home, hub, "cdn/m.gguf", &[])
}

#[track_caller]
fn assert_brings(result: &Output, expected: &[u8]) {
    assert!(result.status.success(), "{}", stderr(result));
    assert!(fs::read(stdout(result).trim()).expect("is there") == expected);
}

#[track_caller]
fn assert_fails(home: &Path, result: &Output, reason: &str, parts: &[&str]) {
    let text = stderr(result);
    assert_eq!(result.status.code(), Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let told = fs::read_to_string(home.join("why")).expect("a termination log");
    assert!(told.contains(&format!("\"{reason}\"")), "{told}");
}

#[test]
fn a_file_is_fetched_once_and_only_again_when_the_server_has_another() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    let first = pull(home.path(), &hub);
    assert_brings(&first, &gguf());
    assert!(stdout(&first).contains("/hub/web--"), "{}", stdout(&first));
    assert_brings(&pull(home.path(), &hub), &gguf());
    assert_eq!(hub.requests().len(), 2, "the second is answered with 304");

    let other = [gguf(), vec![1]].concat();
    hub.replace("m.gguf", other.clone());
    assert_brings(&pull(home.path(), &hub), &other);
    let url = format!("{}/cdn/m.gguf", hub.endpoint);
    drop(hub);
    let without_server = output(ferrum(home.path()).args(["pull", &url]));
    assert_brings(&without_server, &other);
    assert!(stderr(&without_server).contains("the cached copy is used"));
}

#[test]
fn a_redirect_is_followed() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    assert_brings(
        &pull_with(home.path(), &hub, "org/model/resolve/main/m.gguf", &[]),
        &gguf(),
    );
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    hub.break_after("m.gguf", &[100_000, 50_000, 0, 0, 0, 0, 0]);
    assert_fails(
        home.path(),
        &pull(home.path(), &hub),
        "HubUnreachable",
        &["broke off at", "of 300004 bytes", "run the command again"],
    );
    let listed = output(ferrum(home.path()).arg("list"));
    assert!(stdout(&listed).contains("incomplete"), "{}", stdout(&listed));
    assert_brings(&pull(home.path(), &hub), &gguf());
    let ranges = hub.requests();
    assert!(
        ranges[1..].iter().all(|request| request.contains("bytes=")),
        "{ranges:?}"
    );
}

#[test]
fn a_part_of_another_file_is_not_continued() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    hub.break_after("m.gguf", &[100_000, 0, 0, 0, 0, 0]);
    assert_fails(
        home.path(),
        &pull(home.path(), &hub),
        "HubUnreachable",
        &["broke off"],
    );
    let other: Vec<u8> = [b"GGUF".to_vec(), vec![7; 200_000]].concat();
    hub.replace("m.gguf", other.clone());
    assert_brings(&pull(home.path(), &hub), &other);
}

#[test]
fn what_a_server_refuses_is_told_with_what_to_do() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    let cases = [
        (401, "AccessDenied", "no credentials are sent"),
        (403, "AccessDenied", "no credentials are sent"),
        (404, "NotFound", "check the address"),
        (503, "HubUnreachable", "try again later"),
    ];
    for (status, reason, help) in cases {
        hub.answer_with(status);
        let result = pull(home.path(), &hub);
        assert_fails(
            home.path(),
            &result,
            reason,
            &["cdn/m.gguf is answered with", &status.to_string(), help],
        );
    }
    let nowhere = output(
        ferrum(home.path())
            .args(["pull", "http://127.0.0.1:9/m.gguf", "--termination-log"])
            .arg(home.path().join("why")),
    );
    assert_fails(
        home.path(),
        &nowhere,
        "HubUnreachable",
        &["cannot reach http://127.0.0.1:9/m.gguf"],
    );
}

#[test]
fn a_page_instead_of_a_file_is_refused_and_does_not_replace_a_model() {
    let page = b"<!DOCTYPE html>".to_vec();
    let (home, hub) = serving(&[("m.gguf", page.clone())]);
    let parts = ["is not a GGUF file", "begins with \"<!DO\"", "not of a page"];
    assert_fails(home.path(), &pull(home.path(), &hub), "InvalidWeights", &parts);
    assert_eq!(
        stdout(&output(ferrum(home.path()).args(["list", "--json"]))).trim(),
        "[]"
    );
    hub.replace("m.gguf", gguf());
    assert_brings(&pull(home.path(), &hub), &gguf());
    hub.replace("m.gguf", page);
    let refused = pull(home.path(), &hub);
    assert_fails(home.path(), &refused, "InvalidWeights", &parts);
    let kept = fs::read_dir(home.path().join("hub")).expect("a cache");
    let kept = kept
        .filter_map(|entry| Some(entry.ok()?.path().join("model.gguf")))
        .find(|path| path.exists());
    assert!(fs::read(kept.expect("the model")).expect("is read") == gguf());
}

#[test]
fn a_file_beyond_the_limit_is_refused_before_it_is_fetched() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    let refused = pull_with(home.path(), &hub, "cdn/m.gguf", &["--max-bytes", "100Ki"]);
    assert_fails(
        home.path(),
        &refused,
        "CacheTooSmall",
        &["(300004 bytes)", "at most", "(102400 bytes)"],
    );
    assert_brings(
        &pull_with(home.path(), &hub, "cdn/m.gguf", &["--max-bytes", "1Mi"]),
        &gguf(),
    );
}

#[test]
fn a_fetched_file_is_listed_by_its_address_and_removed_by_it() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    assert_brings(&pull(home.path(), &hub), &gguf());
    let url = format!("{}/cdn/m.gguf", hub.endpoint);
    let listed = output(ferrum(home.path()).args(["list", "--json"]));
    let models: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("is JSON");
    assert_eq!(
        (&models[0]["name"], &models[0]["size_bytes"]),
        (&url.as_str().into(), &300_004.into())
    );
    let removed = output(ferrum(home.path()).args(["rm", &url]));
    assert!(removed.status.success(), "{}", stderr(&removed));
    let again = output(ferrum(home.path()).args(["rm", &url]));
    assert!(stderr(&again).contains("is not in"), "{}", stderr(&again));
}

/// What `address` answers to `GET /health`, if anything.
fn health(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_pull_that_listens_tells_how_far_it_is() {
    let (home, hub) = serving(&[("m.gguf", gguf())]);
    // It breaks off at a third and pauses ever longer before it goes on.
    hub.break_after("m.gguf", &[100_000, 0, 0, 0, 0]);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a free port").to_string();
    let mut pull = ferrum(home.path())
        .args([
            "pull",
            &format!("{}/cdn/m.gguf", hub.endpoint),
            "--listen",
            &address,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let begun = Instant::now();
    let mut last = String::new();
    while !last.contains("\"total_bytes\":300004") {
        assert!(begun.elapsed() < Duration::from_secs(20), "last answer: {last}");
        last = health(&address).unwrap_or(last);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(last.contains("503") && last.contains("fetching"), "{last}");
    assert!(pull.wait().expect("it ends").success());
}
