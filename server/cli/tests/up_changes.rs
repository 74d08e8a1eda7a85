//! Manifests that change while `ferrum up` runs.

#![allow(clippy::print_stdout)] // what was measured

mod up_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use up_support::{Bench, chat, model, pid_of, replicas};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_replaced_under_load_without_a_failed_request() {
    let bench = Bench::new();
    bench.write(&(model("a", "replicas: 2") + &model("b", "")));
    // An answer of 16 tokens takes 0.8 s: longer than the notice that a replica gets, so that its drain is needed.
    let up = bench.start(&["--engine-arg=--sim-tpot-ms=50"]);
    let before = up.await_ready(3);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..20)
        .map(|client| tokio::spawn(ask_until(bench.url(), client % 2 == 0, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await; // the load that the change must not disturb
    bench.write(&(model("a", "replicas: 2, engine: {maxNumSeqs: 16}") + &model("b", "")));
    let (output, told) = tokio::task::block_in_place(|| bench.finish(&mut bench.up_command(&[])));
    assert!(output.status.success(), "{told}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut failures) = (0, Vec::new());
    for client in clients {
        let (count, failed) = client.await.expect("no panic");
        answered += count;
        failures.extend(failed);
    }
    println!("{answered} answers, {} failures", failures.len());
    assert!(
        failures.is_empty() && answered > 40,
        "{answered} answers, {failures:#?}\n{}",
        bench.log()
    );

    let after = bench.status();
    let ids: Vec<_> = replicas(&after)
        .iter()
        .map(|replica| replica["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert_eq!(
        pid_of(&after, "b-0"),
        pid_of(&before, "b-0"),
        "what did not change was left alone"
    );
    let old = [pid_of(&before, "a-0"), pid_of(&before, "a-1")];
    let new: Vec<_> = ids
        .iter()
        .filter(|id| id.starts_with("a-"))
        .map(|id| pid_of(&after, id))
        .collect();
    assert!(new.iter().all(|pid| !old.contains(pid)), "{old:?} {new:?}");
    assert!(told.contains(&format!("process {} runs in", up.pid())), "{told}");
    assert!(told.contains("replaces a-0: max-num-seqs 32 -> 16"), "{told}");
    assert!(up.stop().success());
}

async fn ask_until(url: String, stream: bool, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let http = reqwest::Client::new();
    let (mut answered, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match chat(&http, &url, "a", stream).await {
            Ok(_) => answered += 1,
            Err(failure) => failures.push(failure),
        }
    }
    (answered, failures)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_up_adds_and_removes_models_and_returns_when_they_are_ready() {
    let bench = Bench::new();
    bench.write(&(model("a", "") + &model("b", "")));
    let up = bench.start(&[]);
    let before = up.await_ready(2);
    bench.write(&(model("b", "replicas: 2") + &model("c", "")));
    let (output, told) = bench.finish(&mut bench.up_command(&[]));
    assert!(output.status.success(), "{told}");
    let after = bench.status();
    let ids: Vec<_> = replicas(&after)
        .iter()
        .map(|replica| replica["id"].clone())
        .collect();
    assert_eq!(ids, ["b-0", "b-1", "c-0"], "{told}");
    assert_eq!(pid_of(&after, "b-0"), pid_of(&before, "b-0"));
    let http = reqwest::Client::new();
    chat(&http, &bench.url(), "c", true)
        .await
        .expect("the new model answers");
    let refusal = chat(&http, &bench.url(), "a", true)
        .await
        .expect_err("the old model is gone");
    assert!(refusal.starts_with("404"), "{refusal}");

    let (output, told) = bench.finish(&mut bench.up_command(&[]));
    assert!(
        output.status.success() && told.contains("the manifests ask for what runs already"),
        "{told}"
    );
    let (output, told) = bench.finish(&mut bench.up_command(&["--port=1"]));
    assert!(
        !output.status.success() && told.contains("--port 1: the router runs on"),
        "{told}"
    );
    let (output, told) = bench.finish(&mut bench.up_command(&["--watch"]));
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert_eq!(
        bench.status()["replicas"],
        after["replicas"],
        "a refused command changes nothing"
    );
    assert!(up.stop().success());
}

#[test]
fn with_watch_a_changed_file_is_applied_and_a_broken_one_is_not() {
    let bench = Bench::new();
    bench.write(&model("a", ""));
    let up = bench.start(&["--watch"]);
    let before = up.await_ready(1);
    bench.write(&model("a", "replicas: -1"));
    bench.await_some("the refusal", || {
        bench
            .log()
            .contains("spec.replicas: -1 is not allowed")
            .then_some(())
    });
    assert_eq!(bench.status()["replicas"], before["replicas"]);
    bench.write(&model("a", "replicas: 2"));
    let after = up.await_ready(2);
    assert_eq!(pid_of(&after, "a-0"), pid_of(&before, "a-0"));
    assert!(up.stop().success());
}
