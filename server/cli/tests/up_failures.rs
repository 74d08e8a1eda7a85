//! What `ferrum up` does when things break.

mod up_support;

use std::net::TcpListener;

use rustix::process::Signal;
use up_support::{Bench, chat, model, pid_of, replicas, signal};

#[tokio::test]
async fn a_killed_engine_returns_while_the_others_go_on() {
    let bench = Bench::new();
    bench.write(&(model("a", "") + &model("b", "")));
    let up = bench.start(&[]);
    let before = up.await_ready(2);
    signal(pid_of(&before, "a-0"), Signal::KILL);
    chat(&reqwest::Client::new(), &bench.url(), "b", true)
        .await
        .expect("the other model answers");
    let after = bench.await_status("a-0 is back", |status| {
        let replicas = replicas(status);
        replicas[0]["restarts"] == 1 && replicas[0]["state"] == "ready"
    });
    assert_ne!(pid_of(&after, "a-0"), pid_of(&before, "a-0"));
    assert_eq!(pid_of(&after, "b-0"), pid_of(&before, "b-0"));
    chat(&reqwest::Client::new(), &bench.url(), "a", true)
        .await
        .expect("it answers again");
    let log = bench.log();
    assert!(
        log.contains("a-0: broke off: ended with signal: 9 (SIGKILL)"),
        "{log}"
    );
    assert!(log.contains("a-0: next try in 0.5 s"), "{log}");
    assert!(up.stop().success());
}

#[tokio::test]
async fn a_killed_router_returns_on_the_same_address() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let up = bench.start(&[]);
    up.await_ready(1);
    let url = bench.url();
    let router = std::fs::read_dir("/proc")
        .expect("lists")
        .flatten()
        .find_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let text = String::from_utf8_lossy(&command).into_owned();
            let is_ours = text.contains("\0router\0") && text.contains(&bench.state().display().to_string());
            if is_ours {
                entry.file_name().to_str()?.parse().ok()
            } else {
                None
            }
        });
    signal(router.expect("a router"), Signal::KILL);
    bench.await_some("the router is back", || {
        bench.log().contains("router: broke off").then_some(())
    });
    let deadline = std::time::Instant::now() + up_support::PATIENCE;
    while chat(&reqwest::Client::new(), &url, "a", false).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "{}", bench.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(up.stop().success());
}

#[tokio::test]
async fn a_model_that_cannot_load_is_reported_and_the_others_serve() {
    let bench = Bench::new();
    bench.write(&(model("bad", "") + &model("good", "")));
    let up = bench.start(&["--engine-arg=bad@--sim-fail-start=the weights are torn"]);
    bench.await_some("the summary", || bench.log().contains("Endpoint: ").then_some(()));
    let log = bench.log();
    assert!(log.contains("bad-0: could not start: "), "{log}");
    assert!(log.contains("  bad: chat, 0 of 1 ready: "), "{log}");
    assert!(log.contains("  good: chat, 1 of 1 ready\n"), "{log}");
    let reasons = log
        .lines()
        .filter(|line| line.contains("could not start") || line.contains("0 of 1"));
    assert!(
        reasons.clone().count() >= 2 && reasons.clone().all(|line| line.contains("the weights are torn")),
        "{log}"
    );
    let http = reqwest::Client::new();
    chat(&http, &bench.url(), "good", true)
        .await
        .expect("the other model answers");
    let refusal = chat(&http, &bench.url(), "bad", true)
        .await
        .expect_err("it is not there");
    assert!(refusal.contains("the weights are torn"), "{refusal}");
    // It is tried again and again.
    bench.await_status("a second try", |status| {
        replicas(status)[0]["restarts"].as_u64() >= Some(2)
    });
    assert!(up.stop().success());
}

#[test]
fn when_no_model_can_start_it_ends_and_says_why() {
    let bench = Bench::new();
    bench.write(&(model("a", "replicas: 2") + &model("b", "")));
    for args in [&[][..], &["--detach"]] {
        let mut up = bench.up_command(&["--port=0", "--engine-arg=--sim-fail-start=the weights are torn"]);
        let (output, told) = bench.finish(up.args(args));
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(
            told.contains("  a: chat, 0 of 2 ready: ") && told.contains("the weights are torn"),
            "{told}"
        );
        bench.await_some("nothing left", || bench.processes().is_empty().then_some(()));
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    for args in [&[][..], &["--detach"]] {
        let (output, told) = bench.finish(bench.up_command(args).arg(format!("--port={port}")));
        assert_eq!(output.status.code(), Some(1), "{told}");
        let names_it =
            told.contains("the router could not start") && told.contains(&format!("127.0.0.1:{port}"));
        assert!(names_it, "{told}");
        bench.await_some("nothing left", || bench.processes().is_empty().then_some(()));
    }
}

#[test]
fn a_broken_manifest_starts_nothing() {
    let bench = Bench::new();
    bench.write(&(model("a", "replicas: many") + &model("b", "servedName: [x]")));
    let (output, told) = bench.finish(&mut bench.up_command(&["--port=0"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("models.yaml:5:49: spec.replicas: \"many\" is not allowed"),
        "{told}"
    );
    assert!(
        told.contains("models.yaml:10:39: spec.servedName: unknown field: did you mean `servedNames`?"),
        "{told}"
    );
    assert!(!bench.state().exists(), "no state folder was made");
}
