//! From `ferrum up` to its end: serving, background, Ctrl-C, SIGKILL.

#![allow(clippy::print_stdout)] // what was measured

mod up_support;

use std::{fs, time::Instant};

use rustix::process::Signal;
use up_support::{Bench, PATIENCE, chat, model, pid_of, replicas, signal};

#[tokio::test]
async fn two_models_answer_behind_one_router_and_sigterm_leaves_nothing() {
    let bench = Bench::new();
    bench.write(&(model("a", "replicas: 2") + &model("b", "servedNames: [bee]")));
    let up = bench.start(&[]);
    let status = up.await_ready(3);
    let url = bench.url();
    assert_eq!(status["url"], url.as_str());
    let http = reqwest::Client::new();
    for (name, stream) in [("a", true), ("bee", false)] {
        chat(&http, &url, name, stream).await.expect(name);
    }
    chat(&http, &url, "b", false)
        .await
        .expect_err("only its served name is known");
    let told = status_of_router(&url);
    assert!(told.contains("2/2") && told.contains("bee"), "{told}");
    assert!(up.stop().success(), "{}", bench.log());
    assert_eq!(bench.processes(), [""; 0]);
    let left: Vec<_> = fs::read_dir(bench.state())
        .expect("lists")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| ["lock", "logs", "addresses"].contains(&name.to_str().unwrap_or_default())),
        "{left:?}"
    );
    let log = bench.log();
    for told in [
        "a-0: starts",
        "a-1: ready after",
        "Endpoint: http://127.0.0.1:",
        "Try: curl -N",
        "everything has stopped",
    ] {
        assert!(log.contains(told), "{told} in\n{log}");
    }
}

#[test]
fn the_command_that_is_told_works() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let up = bench.start(&[]);
    up.await_ready(1);
    let line = bench.await_some("a curl line", || {
        let log = bench.log();
        log.lines()
            .find_map(|line| line.strip_prefix("Try: "))
            .map(str::to_owned)
    });
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(&line)
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("data: [DONE]"), "{line}\n{told}");
    assert!(up.stop().success());
}

#[test]
fn in_the_background_it_is_ready_when_the_command_returns_and_ends_with_stop() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let (output, told) = bench.finish(
        bench
            .up_command(&["--detach", "--port=0"])
            .env("FERRUM_API_KEY", "secret"),
    );
    assert!(output.status.success() && told.contains("Endpoint: "), "{told}");
    let status = bench.status();
    assert_eq!(replicas(&status)[0]["state"], "ready");
    // A key is in no command line: those can be read by everyone.
    assert!(
        bench.processes().len() == 3
            && bench
                .processes()
                .iter()
                .all(|command| !command.contains("secret"))
    );
    let (output, told) = bench.finish(&mut bench.ferrum("stop"));
    assert!(
        output.status.success() && told.contains("everything has stopped"),
        "{told}"
    );
    assert_eq!(bench.processes(), [""; 0]);
    let (output, told) = bench.finish(&mut bench.ferrum("stop"));
    assert!(
        output.status.success() && told.contains("nothing runs in"),
        "{told}"
    );
    let (output, told) = bench.finish(&mut bench.ferrum("status"));
    assert!(
        !output.status.success() && told.contains("nothing runs in"),
        "{told}"
    );
}

#[test]
fn children_die_with_a_killed_supervisor_and_the_next_one_takes_the_folder_over() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let mut up = bench.start(&[]);
    let engine = pid_of(&up.await_ready(1), "a-0");
    signal(up.pid(), Signal::KILL);
    up.await_end();
    let killed_at = Instant::now();
    bench.await_some("nothing left", || bench.processes().is_empty().then_some(()));
    println!("children were gone after {:?}", killed_at.elapsed());
    let up = bench.start(&[]);
    assert_ne!(pid_of(&up.await_ready(1), "a-0"), engine);
    assert!(up.stop().success());
}

#[tokio::test]
async fn ctrl_c_lets_a_running_answer_finish_and_a_second_one_does_not_wait() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    // 16 tokens take 3.2 s.
    for (signals, finishes) in [(1, true), (2, false)] {
        let mut up = bench.start(&["--engine-arg=--sim-tpot-ms=200"]);
        up.await_ready(1);
        let url = bench.url();
        let answer = tokio::spawn(async move { chat(&reqwest::Client::new(), &url, "a", true).await });
        await_running(&bench).await;
        let before = bench.log().matches("may finish").count();
        signal(up.pid(), Signal::INT);
        bench.await_some("the stop is told", || {
            (bench.log().matches("may finish").count() > before).then_some(())
        });
        if signals == 2 {
            signal(up.pid(), Signal::INT);
        }
        let asked_at = Instant::now();
        assert!(up.await_end().success(), "{}", bench.log());
        assert!(asked_at.elapsed() < PATIENCE);
        let answer = answer.await.expect("no panic");
        assert_eq!(answer.is_ok(), finishes, "{answer:?}\n{}", bench.log());
        assert_eq!(bench.processes(), [""; 0]);
    }
}

/// Waits until the engine of model `a` computes something.
async fn await_running(bench: &Bench) {
    let engine = replicas(&bench.status())[0]["url"]
        .as_str()
        .expect("an address")
        .to_owned();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let metrics = reqwest::get(format!("{engine}/metrics"))
            .await
            .expect("answers")
            .text()
            .await
            .expect("text");
        let runs = |line: &str| line.contains("running") && !line.starts_with('#') && !line.ends_with(" 0");
        if metrics.lines().any(runs) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nothing runs\n{}", bench.log());
}

fn status_of_router(url: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ferrum"))
        .args(["status", "--endpoint", url])
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
